//! What the user may have meant.

/// Names that resemble a mistyped one.
pub fn similar<'a>(names: impl Iterator<Item = &'a str>, typed: &str) -> Vec<&'a str> {
    /// So many wrong letters still count as a slip.
    const SLIPS_MAX: usize = 2;
    let typed = typed.to_lowercase();
    names
        .filter(|name| distance(name, &typed) <= SLIPS_MAX || name.starts_with(&typed))
        .collect()
}

/// The number of letters to insert, delete or change to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_beginnings() {
        let names = ["snapshot", "defrag", "hashkv"];
        let of = |typed| similar(names.into_iter(), typed);
        assert_eq!(of("snapshto"), ["snapshot"]);
        assert_eq!(of("DE"), ["defrag"]);
        assert!(of("backup").is_empty());
    }
}
