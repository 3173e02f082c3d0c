//! Stands in for `protoc` where a build script asks for it: the few of its arguments that `prost-build`
//! passes, a descriptor set out. Only what tests use of others' is built with it.

use std::path::PathBuf;
use std::process::ExitCode;

/// Compiles; the words are those of the command line, the program's name aside.
fn compile(mut words: impl Iterator<Item = String>) -> Result<(), String> {
    let mut output = None;
    let mut includes = Vec::new();
    let mut files = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--include_imports" | "--include_source_info" => {}
            "-o" => output = Some(PathBuf::from(value()?)),
            "-I" => includes.push(PathBuf::from(value()?)),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ => files.push(PathBuf::from(word)),
        }
    }
    let output = output.ok_or("no output (-o)")?;
    let mut compiler = protox::Compiler::new(includes).map_err(|why| why.to_string())?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files).map_err(|why| why.to_string())?;
    std::fs::write(&output, compiler.encode_file_descriptor_set())
        .map_err(|why| format!("{}: {why}", output.display()))
}

fn main() -> ExitCode {
    match compile(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("protoc: {why}");
            ExitCode::FAILURE
        }
    }
}
