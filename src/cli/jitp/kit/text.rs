//! Values set into texts: placeholders, and quoting for a shell and for Markdown.

/// Replaces each `@{NAME}` by its value, in one pass: a value is never searched again. A name that
/// is not among `values` stays as it stands.
pub(super) fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("@{") {
        text.push_str(before);
        let found = after.split_once('}').and_then(|(name, tail)| {
            let (_, value) = values.iter().find(|(known, _)| *known == name)?;
            Some((value, tail))
        });
        if let Some((value, tail)) = found {
            text.push_str(value);
            rest = tail;
        } else {
            text.push_str("@{");
            rest = after;
        }
    }
    text.push_str(rest);
    text
}

/// One word of a POSIX shell, whatever the value holds (a NUL octet excepted, which no shell takes).
pub(super) fn shell_word(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Words with a space between.
pub(super) fn shell_words<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = values.into_iter().map(shell_word).collect();
    words.join(" ")
}

/// A value as code inside a line of Markdown, also inside a table.
pub(super) fn markdown_code(value: &str) -> String {
    let plain: String = value
        .chars()
        .map(|c| match c {
            '`' => '\'',
            '|' => '/',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect();
    format!("`{plain}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_searched_again() {
        let values = [("A", "@{B}".to_owned()), ("B", "x".to_owned())];
        assert_eq!(fill("@{A} @{B} @{C} @{", &values), "@{B} x @{C} @{");
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for value in ["", "a b", "it's", "$(id)", "`id`", "\\'\"\n!*~"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", shell_word(value))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }

    #[test]
    fn code_stays_in_its_cell() {
        assert_eq!(markdown_code("a`b|c\nd"), "`a'b/c d`");
    }
}
