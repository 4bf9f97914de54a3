//! Names as they come, made safe: once for people (terminals, logs), once for file names (hazard h26).

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::LazyLock;

use regex::Regex;

/// Longest text that [`for_people`] shows, in characters of the original.
pub const LONGEST: usize = 4000;

/// Text for people: what would drive a terminal, forge a line or hide itself is shown as an escape (`\n`, `\x1b`,
/// `\u{202e}`, `\xff` for a byte that is no UTF-8); more than [`LONGEST`] characters are cut. All else stays as it is, a
/// backslash too, so escaped text may be escaped again.
pub fn for_people<T: AsRef<OsStr> + ?Sized>(text: &T) -> ForPeople<'_> {
    ForPeople(text.as_ref().as_bytes())
}

/// See [`for_people`].
#[derive(Debug, Clone, Copy)]
pub struct ForPeople<'a>(&'a [u8]);

impl Display for ForPeople<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = LONGEST;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if left == 0 {
                    return f.write_char('…');
                }
                left -= 1;
                if is_plain(c) { f.write_char(c)? } else { write_escaped(f, c)? }
            }
            for byte in chunk.invalid() {
                if left == 0 {
                    return f.write_char('…');
                }
                left -= 1;
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Lines of text for people: as [`for_people`], but line ends stay, and nothing is cut.
pub fn lines_for_people(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || is_plain(c) {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            // Writing to a string cannot fail.
            let _ = write!(out, "{}", for_people(&*c.encode_utf8(&mut bytes)));
        }
    }
    out
}

fn write_escaped(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    match c {
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        c if c.is_ascii() => write!(f, "\\x{:02x}", c as u32),
        c => write!(f, "\\u{{{:x}}}", c as u32),
    }
}

/// Whether a character shows itself and changes nothing around it: no control or format character, no line or paragraph
/// separator, nothing invisible, private or unassigned.
fn is_plain(c: char) -> bool {
    static HIDDEN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]").expect("a valid pattern"));
    c.is_ascii_graphic() || c == ' ' || !(c.is_ascii() || HIDDEN.is_match(c.encode_utf8(&mut [0; 4])))
}

/// JSON in which no string holds a character that [`for_people`] would escape; its values are the same.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Outside of strings there are line ends and ASCII only.
        if c == '\n' || is_plain(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Most bytes of what [`file_component`] gives: two of them and a few words fit into a file name of 255.
pub const COMPONENT_BYTES: usize = 110;

/// What stands between the start of a name that is too long and the hash of the whole.
const CUT: &str = "%~";

/// An arbitrary name as one component of a path that any file system and share takes: what is not allowed there is
/// written as `%` and two digits a byte (`CK5/6` becomes `CK5%2F6`). [`name_of_component`] goes back. Different names give
/// different components; one that would be longer than [`COMPONENT_BYTES`] ends with a hash instead, which has no way back.
pub fn file_component<T: AsRef<OsStr> + ?Sized>(name: &T) -> String {
    let bytes = name.as_ref().as_bytes();
    let mut component = String::new();
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| {
            if is_plain(c) && !r#"%/\:*?"<>|"#.contains(c) {
                component.push(c);
            } else {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| percent(&mut component, byte));
            }
        });
        chunk.invalid().iter().for_each(|&byte| percent(&mut component, byte));
    }
    // Hidden files and options of programs begin so.
    if component.starts_with(['.', '-', ' ', '~']) || is_reserved(&component) {
        let mut first = String::new();
        percent(&mut first, component.as_bytes()[0]);
        component.replace_range(..1, &first);
    }
    // Windows drops these at the end.
    if let Some(last @ (b'.' | b' ')) = component.bytes().next_back() {
        component.pop();
        percent(&mut component, last);
    }
    if component.is_empty() {
        // An escape of no byte.
        component.push('%');
    }
    if component.len() > COMPONENT_BYTES {
        use sha2::Digest;
        let hash = crate::hex::hex(&sha2::Sha256::digest(bytes)[..16]);
        let mut end = component.floor_char_boundary(COMPONENT_BYTES - CUT.len() - hash.len());
        // An escape stays whole.
        if let Some(escape) = component[..end].rfind('%').filter(|&at| end - at < 3) {
            end = escape;
        }
        component.truncate(end);
        component.push_str(CUT);
        component.push_str(&hash);
    }
    component
}

/// The name that [`file_component`] has written; none where it was cut, or where this is no such component.
pub fn name_of_component(component: &str) -> Option<OsString> {
    if component == "%" {
        return Some(OsString::new());
    }
    let mut name = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = rest.get(..2).and_then(|digits| str::from_utf8(digits).ok())?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            name.push(byte);
        }
    }
    let name = OsString::from_vec(name);
    (file_component(&name) == component).then_some(name)
}

fn percent(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

/// Whether Windows takes this for a device, whatever follows the first dot.
fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = |port: &str| {
        stem.strip_prefix(port).is_some_and(|rest| {
            let mut digits = rest.chars();
            digits.next().is_some_and(|c| c.is_ascii_digit() || "¹²³".contains(c)) && digits.next().is_none()
        })
    };
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str()) || numbered("COM") || numbered("LPT")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn h26_what_drives_a_terminal_or_hides_is_shown() {
        let table: [(&[u8], &str); 9] = [
            (b"case7_HE.svs", "case7_HE.svs"),
            ("Müller µm 肝臓 ✓".as_bytes(), "Müller µm 肝臓 ✓"),
            (b"a\nERROR forged\r\t", "a\\nERROR forged\\r\\t"),
            (b"\x1b[2J\x07\x7f\x00", "\\x1b[2J\\x07\\x7f\\x00"),
            ("\u{9b}2J\u{85}".as_bytes(), "\\u{9b}2J\\u{85}"),
            ("a\u{202e}svs.exe\u{2066}\u{200f}\u{61c}".as_bytes(), "a\\u{202e}svs.exe\\u{2066}\\u{200f}\\u{61c}"),
            (
                "\u{200b}\u{2028}\u{2029}\u{feff}\u{ad}\u{3164}\u{e0041}".as_bytes(),
                "\\u{200b}\\u{2028}\\u{2029}\\u{feff}\\u{ad}\\u{3164}\\u{e0041}",
            ),
            (b"caf\xe9.svs", "caf\\xe9.svs"),
            (b"back\\slash", "back\\slash"),
        ];
        for (bytes, shown) in table {
            assert_eq!(for_people(OsStr::from_bytes(bytes)).to_string(), shown);
        }
        assert_eq!(for_people(&"x".repeat(LONGEST + 1)).to_string().chars().count(), LONGEST + 1, "cut, with a mark");
    }

    #[test]
    fn h26_a_name_becomes_one_component_that_shares_take() {
        let table = [
            ("CK5/6", "CK5%2F6"),
            ("HE", "HE"),
            ("Ki-67", "Ki-67"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("../../etc", "%2E.%2F..%2Fetc"),
            ("-rf", "%2Drf"),
            ("nul.txt", "%6Eul.txt"),
            ("COM1", "%43OM1"),
            ("COM¹", "%43OM¹"),
            ("COM10", "COM10"),
            ("trailing. ", "trailing.%20"),
            ("100%", "100%25"),
            ("a\0b\u{202e}", "a%00b%E2%80%AE"),
        ];
        for (name, component) in table {
            assert_eq!(file_component(name), component);
            assert_eq!(name_of_component(component).as_deref(), Some(OsStr::new(name)));
        }
        for not_ours in ["%2f", "%4", "a/b", "%41", "", "..", "%%"] {
            assert_eq!(name_of_component(not_ours), None, "{not_ours}");
        }
        assert!(file_component(&"x".repeat(300)).starts_with("xxx"));
        assert_ne!(file_component(&("x".repeat(300) + "a")), file_component(&("x".repeat(300) + "b")));
    }

    fn any_name() -> impl Strategy<Value = OsString> {
        let bytes = prop::collection::vec(any::<u8>(), 0..80);
        let nasty = prop::collection::vec(prop::sample::select(&b"./\\%-~ :\n\x1b\xe9\xffCOMNUL1a"[..]), 0..12);
        let text = any::<String>().prop_map(String::into_bytes);
        prop_oneof![bytes, nasty, text].prop_map(OsString::from_vec)
    }

    proptest! {
        #[test]
        fn h26_text_for_people_holds_nothing_that_acts(name in any_name()) {
            let shown = for_people(&name).to_string();
            prop_assert!(shown.chars().all(is_plain), "{shown:?}");
            prop_assert_eq!(for_people(&shown).to_string(), shown.clone(), "once is enough");
        }

        #[test]
        fn h26_escaped_json_says_the_same_in_plain_characters(text in any::<String>()) {
            let text = text + "\u{202e}\u{e0041}\u{7f}";
            let escaped = json(&serde_json::to_string_pretty(&[&text]).expect("JSON"));
            prop_assert!(escaped.chars().all(|c| c == '\n' || is_plain(c)), "{escaped:?}");
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).expect("JSON"), [text]);
        }

        #[test]
        fn h26_a_component_is_safe_and_leads_back_to_its_name(name in any_name()) {
            let component = file_component(&name);
            prop_assert!((1..=COMPONENT_BYTES).contains(&component.len()));
            prop_assert!(component.chars().all(|c| is_plain(c) && !r#"/\:*?"<>|"#.contains(c)), "{component}");
            prop_assert!(!component.starts_with(['.', '-', ' ', '~']) && !component.ends_with(['.', ' ']), "{component}");
            prop_assert!(!is_reserved(&component), "{component}");
            let parts: Vec<Component> = Path::new(&component).components().collect();
            prop_assert!(matches!(parts[..], [Component::Normal(only)] if only == OsStr::new(&component)));
            let back = name_of_component(&component);
            prop_assert!(component.contains(CUT) || back.as_ref() == Some(&name), "{back:?}");
            prop_assert!(!component.contains(CUT) || back.is_none());
        }

        #[test]
        fn h26_different_names_have_different_components(names in prop::collection::hash_set(any_name(), 2..20)) {
            let mut owners = HashMap::new();
            for name in names {
                let before = owners.insert(file_component(&name), name.clone());
                prop_assert!(before.is_none(), "{before:?} and {name:?}");
            }
        }
    }
}
