//! Key file and recovery sheet: the key as lines a person can type. Specified in `docs/keys.md`.

use block::VaultId;
use zeroize::Zeroizing;

use crate::{Error, Result, VaultKey};

/// Longest text read; a key file or sheet is a few hundred bytes.
const MAX_TEXT: usize = 64 << 10;
const FILE_TITLE: &str = "blockd vault key, version 0";
const SHEET_TITLE: &str = "blockd vault recovery sheet, version 0";
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LINES: usize = 4;

fn wrong(why: impl Into<String>) -> Error {
    Error::KeyText { why: why.into() }
}

fn check_bits(line: usize, part: &[u8]) -> [u8; 2] {
    let mut input = Zeroizing::new(vec![line as u8 + 1]);
    input.extend_from_slice(part);
    let hash = blake3::derive_key("blockd vault v0 key line", &input);
    [hash[0], hash[1]]
}

/// One line: 64 bits of key and 16 check bits as four groups of four digits.
fn line_text(line: usize, part: &[u8]) -> Zeroizing<String> {
    let mut bits: u128 = 0;
    for byte in part.iter().chain(&check_bits(line, part)) {
        bits = bits << 8 | u128::from(*byte);
    }
    let mut text = Zeroizing::new(String::with_capacity(19));
    for digit in 0..16 {
        if digit > 0 && digit % 4 == 0 {
            text.push('-');
        }
        text.push(char::from(DIGITS[(bits >> (75 - 5 * digit)) as usize & 31]));
    }
    text
}

fn digit_value(c: char) -> Option<u128> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    DIGITS.iter().position(|&digit| char::from(digit) == c).map(|value| value as u128)
}

fn read_line(line: usize, text: &str) -> Result<Zeroizing<[u8; 8]>> {
    let shown = line + 1;
    let mut bits: u128 = 0;
    let mut count = 0;
    for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let value = digit_value(c)
            .ok_or_else(|| wrong(format!("key line {shown} has a {c:?}, which is no digit")))?;
        count += 1;
        if count > 16 {
            return Err(wrong(format!("key line {shown} has more than 16 digits")));
        }
        bits = bits << 5 | value;
    }
    if count < 16 {
        return Err(wrong(format!("key line {shown} has {count} digits of 16")));
    }
    let bytes = Zeroizing::new(bits.to_be_bytes());
    let mut part = Zeroizing::new([0; 8]);
    part.copy_from_slice(&bytes[6..14]);
    if check_bits(line, &*part) != bytes[14..] {
        return Err(wrong(format!("key line {shown} has a typing mistake")));
    }
    Ok(part)
}

fn key_lines(key: &VaultKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    for (line, part) in key.bytes().chunks_exact(8).enumerate() {
        text.push_str(&format!("key {}: ", line + 1));
        text.push_str(&line_text(line, part));
        text.push('\n');
    }
    text
}

/// The rest of the first line that begins with `label`.
fn labelled<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix(label))
}

fn read_key(text: &str) -> Result<VaultKey> {
    if text.len() > MAX_TEXT {
        return Err(wrong(format!("{} bytes long, at most {MAX_TEXT} are valid", text.len())));
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for line in 0..LINES {
        let label = format!("key {}:", line + 1);
        let rest = labelled(text, &label).ok_or_else(|| wrong(format!("the line \"{label}\" is missing")))?;
        bytes[8 * line..8 * line + 8].copy_from_slice(&*read_line(line, rest)?);
    }
    Ok(VaultKey::from_bytes(*bytes))
}

pub(crate) fn file(key: &VaultKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str(FILE_TITLE);
    text.push('\n');
    text.push_str("# Who has this reads the vault. Without it nobody does. Never keep it in the vault.\n");
    text.push_str(&key_lines(key));
    text
}

pub(crate) fn read_file(text: &str) -> Result<VaultKey> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    if first != Some(FILE_TITLE) {
        return Err(wrong(format!("it does not begin with the line \"{FILE_TITLE}\"")));
    }
    read_key(text)
}

/// Of a sheet's lines one that names the vault or the tie is enough to tell that it is one.
pub(crate) fn read_any(text: &str) -> Result<(VaultKey, Option<VaultId>)> {
    if labelled(text, "sheet:").is_some() || labelled(text, "vault:").is_some() {
        return read_sheet(text).map(|(key, vault)| (key, Some(vault)));
    }
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match lines().next() {
        Some(first) if first.starts_with("key 1:") => Ok((read_key(text)?, None)),
        _ => Ok((read_file(text)?, None)),
    }
}

fn tie(key: &VaultKey, vault: VaultId) -> String {
    let mut input = Zeroizing::new(vault.as_bytes().to_vec());
    input.extend_from_slice(key.bytes());
    let hash = blake3::derive_key("blockd vault v0 sheet", &input);
    hash[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sheet(key: &VaultKey, vault: VaultId, name: &str, place: &str) -> Zeroizing<String> {
    // one line each, so that no name can look like a key line
    let tame = |text: &str| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    let lines = key_lines(key);
    let tie = tie(key, vault);
    let mut text = Zeroizing::new(String::with_capacity(2048));
    text.push_str(&format!(
        "{SHEET_TITLE}\n\n\
         Vault \"{}\"\nStore {}\n\n\
         Print this sheet and keep it in a safe place, away from the vault. Whoever has this sheet and the\n\
         store reads every backup; without it and without the key file nobody does, its makers included.\n\n\
         vault: {vault}\n{}sheet: {tie}\n\n",
        tame(name),
        tame(place),
        &*lines,
    ));
    text.push_str(
        "The digits are 0-9 and A-Z without I, L, O and U; small letters, spaces and dashes do not matter.\n\
         To restore on a machine that has nothing else: install blockd, bring the store, type the lines\n\
         from \"vault:\" to \"sheet:\" into a file, and run\n\
         blockctl vault rescue STORE --key FILE list\n\
         or, with a daemon, blockctl vault open NAME --store STORE --key FILE\n",
    );
    text
}

pub(crate) fn read_sheet(text: &str) -> Result<(VaultKey, VaultId)> {
    let key = read_key(text)?;
    let id = labelled(text, "vault:").ok_or_else(|| wrong("the line \"vault:\" is missing"))?;
    let vault: VaultId = id.trim().parse().map_err(|e| wrong(format!("the line \"vault:\": {e}")))?;
    let shown = labelled(text, "sheet:").ok_or_else(|| wrong("the line \"sheet:\" is missing"))?;
    if !shown.trim().eq_ignore_ascii_case(&tie(&key, vault)) {
        return Err(wrong(
            "the line \"sheet:\" does not belong to this vault id and key: one of them has a typing mistake",
        ));
    }
    Ok((key, vault))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> VaultKey {
        VaultKey::from_bytes(std::array::from_fn(|i| (i * 37 + 11) as u8))
    }

    #[test]
    fn file_and_sheet_round_trip_however_they_are_typed() {
        let vault = VaultId::from_bytes([0x42; 16]);
        let file = key().to_file_text();
        assert_eq!(VaultKey::from_file_text(&file).unwrap().bytes(), key().bytes());
        let sheet = key().recovery_sheet(vault, "main\nkey 1: 0000", "/srv/vault");
        let typed = sheet.to_lowercase().replace('-', " ").replace('0', "o").replace("key o", "key 0");
        let vault_line = format!("vault: {vault}");
        let typed: String = typed
            .lines()
            .map(|line| match line.split(':').next() {
                Some("vault") => vault_line.clone() + "\n",
                Some("sheet") => sheet.lines().find(|l| l.starts_with("sheet:")).unwrap().to_owned() + "\n",
                _ => line.to_owned() + "\n",
            })
            .collect();
        for text in [sheet.as_str(), &typed] {
            let (back, id) = VaultKey::from_sheet(text).unwrap();
            assert_eq!((back.bytes(), id), (key().bytes(), vault));
        }
    }

    /// Every single wrong digit, every pair of swapped neighbours and every two swapped lines are seen.
    #[test]
    fn every_single_typing_mistake_is_found_and_its_line_named() {
        let file = key().to_file_text();
        let lines: Vec<&str> = file.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("key ")) {
            let digits: Vec<char> = line.chars().collect();
            for place in 7..digits.len() {
                let mut swapped = digits.clone();
                swapped.swap(place - 1, place);
                let others = DIGITS.iter().map(|&digit| {
                    let mut other = digits.clone();
                    other[place] = char::from(digit);
                    other
                });
                for wrong in
                    others.chain([swapped]).filter(|_| digits[place] != '-' && digits[place - 1] != '-')
                {
                    if wrong == digits || wrong[place - 1] == ' ' || wrong[place] == ' ' {
                        continue;
                    }
                    let mut text = lines.clone();
                    let hurt: String = wrong.into_iter().collect();
                    text[at] = &hurt;
                    let error = VaultKey::from_file_text(&text.join("\n")).unwrap_err();
                    assert!(error.to_string().contains(&format!("line {}", at - 1)), "{hurt}: {error}");
                }
            }
        }
        let swapped =
            file.replace("key 2:", "key x:").replace("key 3:", "key 2:").replace("key x:", "key 3:");
        assert!(VaultKey::from_file_text(&swapped).is_err());
    }

    #[test]
    fn whichever_a_person_has_is_read() {
        let vault = VaultId::from_bytes([7; 16]);
        let sheet = key().recovery_sheet(vault, "main", "/srv/vault");
        let only_key: String = sheet
            .lines()
            .filter(|line| line.starts_with("key "))
            .fold(String::new(), |all, line| all + line + "\n");
        for (text, of) in
            [(sheet.as_str(), Some(vault)), (key().to_file_text().as_str(), None), (only_key.as_str(), None)]
        {
            let (read, id) = VaultKey::from_text(text).unwrap();
            assert_eq!((read.bytes(), id), (key().bytes(), of), "{text}");
        }
        let untied = sheet.replace("sheet:", "shet:");
        for text in ["", "key 2: x", "blockd vault key, version 9\n", untied.as_str()] {
            assert!(VaultKey::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sheet_of_another_vault_is_told() {
        let sheet = key().recovery_sheet(VaultId::from_bytes([1; 16]), "a", "b");
        let other = sheet
            .replace(&VaultId::from_bytes([1; 16]).to_string(), &VaultId::from_bytes([2; 16]).to_string());
        assert!(VaultKey::from_sheet(&other).unwrap_err().to_string().contains("sheet:"));
    }
}
