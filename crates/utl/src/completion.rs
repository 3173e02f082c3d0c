//! `completion`: scripts that complete commands and flags, made from the table of commands.

use ferrite_cli::{gofmt, report};

use crate::commands::{COMMANDS, Command, GLOBAL};
use crate::error::{ERROR, Failure};

/// Prints the script for the shell named.
///
/// # Errors
/// Not exactly one shell, or one that there is no script for.
pub fn print(words: &[Vec<u8>]) -> Result<(), Failure> {
    let [shell] = words else {
        return Err(Failure::new(
            ERROR,
            format!("accepts 1 arg(s), received {}", words.len()),
        ));
    };
    let script = match &shell[..] {
        b"bash" => bash(),
        b"zsh" => format!(
            "#compdef etcdutl\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash()
        ),
        b"fish" => fish(),
        b"powershell" => powershell(),
        other => {
            return Err(Failure::new(
                ERROR,
                format!(
                    "invalid argument {} for \"etcdutl completion\"",
                    gofmt::quote(other)
                ),
            ));
        }
    };
    report::out(script.as_bytes());
    Ok(())
}

/// Every command with the words before it, the program itself first.
fn places() -> Vec<(String, &'static [Command], Vec<String>)> {
    fn visit(
        before: &str,
        children: &'static [Command],
        own: Vec<String>,
        out: &mut Vec<(String, &'static [Command], Vec<String>)>,
    ) {
        let mut flags = own;
        flags.extend(GLOBAL.iter().map(|flag| format!("--{}", flag.name)));
        out.push((before.to_owned(), children, flags));
        for child in children {
            let path = format!("{before} {}", child.name);
            let own = child
                .flags
                .iter()
                .map(|f| format!("--{}", f.name))
                .collect();
            visit(path.trim_start(), child.children, own, out);
        }
    }
    let mut out = Vec::new();
    visit("", &COMMANDS, Vec::new(), &mut out);
    out
}

/// Words that may follow, a line a place.
fn candidates((_, children, flags): &(String, &'static [Command], Vec<String>)) -> String {
    let names = children.iter().map(|c| c.name.to_owned());
    let words: Vec<String> = names.chain(flags.iter().cloned()).collect();
    words.join(" ")
}

fn bash() -> String {
    let mut cases = String::new();
    for place in places() {
        cases.push_str(&format!(
            "    \"{}\") words=\"{}\" ;;\n",
            place.0,
            candidates(&place)
        ));
    }
    format!(
        "# completion of etcdutl
_etcdutl() {{
  local path=\"\" word words=\"\" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\"${{COMP_WORDS[i]}}\"
    case \"$word\" in
    completion|defrag|hashkv|help|migrate|snapshot|version|restore|status) path=\"${{path:+$path }}$word\" ;;
    esac
  done
  case \"$path\" in
{cases}  esac
  COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -o default -F _etcdutl etcdutl
"
    )
}

fn fish() -> String {
    let mut out = String::from("# completion of etcdutl\n");
    for (path, children, flags) in places() {
        let seen: Vec<String> = path
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(|w| format!("__fish_seen_subcommand_from {w}"))
            .collect();
        let condition = if seen.is_empty() {
            "__fish_use_subcommand".to_owned()
        } else {
            seen.join("; and ")
        };
        for child in children {
            out.push_str(&format!(
                "complete -c etcdutl -f -n '{condition}' -a {} -d '{}'\n",
                child.name, child.help
            ));
        }
        for flag in flags {
            out.push_str(&format!(
                "complete -c etcdutl -n '{condition}' -l {}\n",
                flag.trim_start_matches('-')
            ));
        }
    }
    out
}

fn powershell() -> String {
    let mut table = String::new();
    for place in places() {
        table.push_str(&format!("    '{}' = '{}'\n", place.0, candidates(&place)));
    }
    format!(
        "# completion of etcdutl
Register-ArgumentCompleter -Native -CommandName etcdutl -ScriptBlock {{
  param($word, $ast, $position)
  $table = @{{
{table}  }}
  $path = @()
  foreach ($element in $ast.CommandElements | Select-Object -Skip 1) {{
    $candidate = (@($path) + \"$element\") -join ' '
    if ($table.ContainsKey($candidate)) {{ $path += \"$element\" }}
  }}
  $table[($path -join ' ')] -split ' ' | Where-Object {{ $_ -like \"$word*\" }} |
    ForEach-Object {{ [System.Management.Automation.CompletionResult]::new($_) }}
}}
"
    )
}
