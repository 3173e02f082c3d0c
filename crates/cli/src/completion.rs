//! `completion`: scripts that complete commands and flags, made from a program's table of commands.

/// A command with what may follow it.
pub struct Place {
    /// The commands' names down to it, with spaces between; empty for the program itself.
    pub path: String,
    /// Subcommands: name and one line of help.
    pub children: Vec<(&'static str, &'static str)>,
    /// Names of flags, without dashes.
    pub flags: Vec<&'static str>,
}

impl Place {
    /// Words that may follow.
    fn candidates(&self) -> String {
        let names = self.children.iter().map(|(name, _)| (*name).to_owned());
        let flags = self.flags.iter().map(|flag| format!("--{flag}"));
        names.chain(flags).collect::<Vec<_>>().join(" ")
    }
}

/// The script for a shell; `None` for one that there is no script for.
pub fn script(program: &str, shell: &[u8], places: &[Place]) -> Option<String> {
    Some(match shell {
        b"bash" => bash(program, places),
        b"zsh" => format!(
            "#compdef {program}\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash(program, places)
        ),
        b"fish" => fish(program, places),
        b"powershell" => powershell(program, places),
        _ => return None,
    })
}

fn bash(program: &str, places: &[Place]) -> String {
    let mut cases = String::new();
    let mut paths = Vec::new();
    for place in places {
        cases.push_str(&format!(
            "    \"{}\") words=\"{}\" ;;\n",
            place.path,
            place.candidates()
        ));
        if !place.path.is_empty() {
            paths.push(format!("\"{}\"", place.path));
        }
    }
    let function = program.replace('-', "_");
    format!(
        "# completion of {program}
_{function}() {{
  local path=\"\" next words=\"\" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    next=\"${{path:+$path }}${{COMP_WORDS[i]}}\"
    case \"$next\" in
    {}) path=\"$next\" ;;
    esac
  done
  case \"$path\" in
{cases}  esac
  COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -o default -F _{function} {program}
",
        paths.join("|")
    )
}

fn fish(program: &str, places: &[Place]) -> String {
    let mut out = format!("# completion of {program}\n");
    for place in places {
        let seen: Vec<String> = place
            .path
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| format!("__fish_seen_subcommand_from {word}"))
            .collect();
        let condition = if seen.is_empty() {
            "__fish_use_subcommand".to_owned()
        } else {
            seen.join("; and ")
        };
        for (name, help) in &place.children {
            let help = help.replace('\\', "\\\\").replace('\'', "\\'");
            out.push_str(&format!(
                "complete -c {program} -f -n '{condition}' -a {name} -d '{help}'\n"
            ));
        }
        for flag in &place.flags {
            out.push_str(&format!(
                "complete -c {program} -n '{condition}' -l {flag}\n"
            ));
        }
    }
    out
}

fn powershell(program: &str, places: &[Place]) -> String {
    let table: String = places
        .iter()
        .map(|place| format!("    '{}' = '{}'\n", place.path, place.candidates()))
        .collect();
    format!(
        "# completion of {program}
Register-ArgumentCompleter -Native -CommandName {program} -ScriptBlock {{
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_hears_of_every_place() {
        let places = [
            Place {
                path: String::new(),
                children: vec![("user", "A user's")],
                flags: vec!["hex"],
            },
            Place {
                path: "user".into(),
                children: vec![("add", "Adds")],
                flags: Vec::new(),
            },
        ];
        for shell in ["bash", "zsh", "fish", "powershell"] {
            let script = script("etcdctl", shell.as_bytes(), &places).unwrap_or_default();
            for word in ["etcdctl", "user", "add", "hex"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        assert!(script("etcdctl", b"tcsh", &places).is_none());
    }
}
