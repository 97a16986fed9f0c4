//! `*` and `?`, without backtracking beyond the last star.

/// Whether `text` has the form of `pattern`: `*` stands for any characters, none included, `?` for
/// one. Takes at most `pattern` times `text` steps.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // Where to go on if what follows the last star does not fit: one character later.
    let mut retry = None;
    loop {
        let here = text.clone();
        match (pattern.next(), text.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                text = here;
                retry = Some((pattern.clone(), text.clone()));
            }
            (Some('?'), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => {
                let Some((after_star, start)) = &mut retry else { return false };
                if start.next().is_none() {
                    return false;
                }
                (pattern, text) = (after_star.clone(), start.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("a*c", "ac"),
            ("a*c", "abcbc"),
            ("a?c", "abc"),
            ("?", "é"),
            ("**a**", "bab"),
            ("*/*", "key/k"),
            ("a*b*c", "a1b2b3c"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("?", ""), ("a*c", "ab"), ("a?c", "ac"), ("*b", "ba"), ("A", "a")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let (pattern, text) = (format!("{}b", "a*".repeat(500)), "a".repeat(2000));
        assert!(!matches(&pattern, &text));
    }
}
