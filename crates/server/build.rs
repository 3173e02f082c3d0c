//! Tells the program which commit it was built from, where git knows.

fn main() {
    println!("cargo:rerun-if-changed=../../.git/HEAD");
    println!("cargo:rerun-if-changed=../../.git/refs");
    println!("cargo:rerun-if-env-changed=FERRITE_GIT_SHA");
    if std::env::var_os("FERRITE_GIT_SHA").is_some() {
        return;
    }
    let said = std::process::Command::new("git")
        .args(["rev-parse", "--short=9", "HEAD"])
        .output();
    if let Ok(output) = said
        && output.status.success()
        && let Ok(sha) = String::from_utf8(output.stdout)
    {
        println!("cargo:rustc-env=FERRITE_GIT_SHA={}", sha.trim());
    }
}
