//! Tables framed with box-drawing characters.

/// Draws the frame: the header in capitals and centred, the cells to the right.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header
        .iter()
        .map(|h| h.to_uppercase().replace(['_', '.'], " "))
        .collect();
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(cell))
                .chain([width(name)])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let rule = |left: char, middle: &str, right: char| {
        let parts: Vec<String> = widths.iter().map(|w| "─".repeat(w + 2)).collect();
        format!("{left}{}{right}\n", parts.join(middle))
    };
    let row = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
    let mut out = rule('┌', "┬", '┐');
    out.push_str(&row(header
        .iter()
        .zip(&widths)
        .map(|(name, &w)| {
            let gap = w - width(name);
            let left = gap / 2;
            format!(" {}{name}{} ", " ".repeat(left), " ".repeat(gap - left))
        })
        .collect()));
    if !rows.is_empty() {
        out.push_str(&rule('├', "┼", '┤'));
    }
    for cells in rows {
        out.push_str(&row(cells
            .iter()
            .zip(&widths)
            .map(|(cell, &w)| format!(" {}{cell} ", " ".repeat(w.saturating_sub(width(cell)))))
            .collect()));
    }
    out.push_str(&rule('└', "┴", '┘'));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_centred_and_cells_stand_right() {
        let rows = [
            vec!["127.0.0.1:2379".into(), "1084519789".into(), "3".into()],
            vec!["é:1".into(), "7".into(), String::new()],
        ];
        assert_eq!(
            render(&["endpoint", "hash", "hash_revision"], &rows),
            "\
┌────────────────┬────────────┬───────────────┐
│    ENDPOINT    │    HASH    │ HASH REVISION │
├────────────────┼────────────┼───────────────┤
│ 127.0.0.1:2379 │ 1084519789 │             3 │
│            é:1 │          7 │               │
└────────────────┴────────────┴───────────────┘
"
        );
    }

    #[test]
    fn an_odd_gap_leaves_its_extra_space_on_the_right() {
        assert_eq!(
            render(&["id"], &[vec!["12345".into()]]),
            "┌───────┐\n│  ID   │\n├───────┤\n│ 12345 │\n└───────┘\n"
        );
    }
}
