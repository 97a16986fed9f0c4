//! What names and texts may look like.

use std::ops::RangeInclusive;

use super::RamError;

/// 1 to 64 letters, digits and `.`, `_`, `-`.
pub(super) fn check_user(name: &str) -> Result<(), RamError> {
    within(name, 1..=64, "UserName")?;
    only(name, "._-", "UserName")
}

/// 1 to 64 letters, digits and `.`, `_`, `-`.
pub(super) fn check_role(name: &str) -> Result<(), RamError> {
    within(name, 1..=64, "RoleName")?;
    only(name, "._-", "RoleName")
}

/// 1 to 128 letters, digits and `-`.
pub(super) fn check_policy(name: &str) -> Result<(), RamError> {
    within(name, 1..=128, "PolicyName")?;
    only(name, "-", "PolicyName")
}

/// Empty, or something before and after an `@`.
pub(super) fn check_email(text: &str) -> Result<(), RamError> {
    let is_address = |text: &str| {
        let has_both = text.split_once('@').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
        has_both && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let is_fine = text.is_empty() || is_address(text);
    if is_fine { Ok(()) } else { Err(RamError::Format("Email")) }
}

/// Empty, or digits with `+` and `-` among them.
pub(super) fn check_phone(text: &str) -> Result<(), RamError> {
    let is_known = |byte: u8| byte.is_ascii_digit() || b"+-".contains(&byte);
    let is_fine = text.len() <= 32 && text.bytes().all(is_known);
    if is_fine { Ok(()) } else { Err(RamError::Format("MobilePhone")) }
}

/// As many characters as that, on one line.
pub(super) fn within(
    text: &str,
    chars: RangeInclusive<usize>,
    parameter: &'static str,
) -> Result<(), RamError> {
    if !chars.contains(&text.chars().count()) {
        return Err(RamError::Length(parameter));
    }
    if text.contains(char::is_control) {
        return Err(RamError::InvalidChars(parameter));
    }
    Ok(())
}

fn only(text: &str, more: &str, parameter: &'static str) -> Result<(), RamError> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
    if text.chars().all(is_known) { Ok(()) } else { Err(RamError::InvalidChars(parameter)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_published_form() {
        assert!(check_user("ann.b_c-9").is_ok());
        for (name, code) in [
            ("", "InvalidParameter.UserName.Length"),
            (&*"a".repeat(65), "InvalidParameter.UserName.Length"),
            ("a b", "InvalidParameter.UserName.InvalidChars"),
            ("a/b", "InvalidParameter.UserName.InvalidChars"),
            ("ä", "InvalidParameter.UserName.InvalidChars"),
        ] {
            assert_eq!(check_user(name).unwrap_err().code(), code, "{name}");
        }
        assert!(check_policy("My-Policy1").is_ok() && check_policy("a_b").is_err());
        assert!(check_email("a@b.c").is_ok() && check_email("").is_ok());
        assert!(check_email("a@").is_err() && check_email("a b@c").is_err());
        assert!(check_phone("86-13900000000").is_ok() && check_phone("x").is_err());
    }
}
