//! Spans of time as people write them: 12h, 30d, 8w.

/// A span in seconds.
///
/// # Errors
/// What a span looks like.
pub fn parse(text: &str) -> Result<u64, String> {
    let units = [('h', 3600), ('d', 86_400), ('w', 7 * 86_400)];
    let found = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let count = found.and_then(|(digits, seconds): (&str, u64)| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<u64>().ok()?.checked_mul(seconds)).flatten()
    });
    count
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "a span is a number and h, d or w, such as 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(parse("12h"), Ok(43_200));
        assert_eq!(parse("30d"), Ok(2_592_000));
        assert_eq!(parse("8w"), Ok(4_838_400));
        for bad in
            ["", "d", "30", "0d", "-1d", "+1d", "1.5d", "99999999999999999999d", "9999999999999999999w"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
