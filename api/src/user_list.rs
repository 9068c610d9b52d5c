//! Parses lists of users from editors and spreadsheets: one id a line, or a CSV with a column
//! `user_id`.

use std::collections::HashSet;

use csv::{ReaderBuilder, StringRecord, Trim};
use firstcome_shared::domain::UserId;

/// The users of a list.
#[derive(Debug)]
pub(crate) struct UserList {
    /// In the order of the list, each once.
    pub(crate) users: Vec<UserId>,
    /// Number of ids in the list, including repetitions.
    pub(crate) lines: usize,
}

/// Parses a text. Blank lines and spaces around an id are left out.
///
/// # Errors
/// Returns a message that contains no id, and the number of the line unless the text is UTF-16.
pub(crate) fn parse(bytes: &[u8]) -> Result<UserList, String> {
    let is_utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    if is_utf16 || bytes.get(..2).is_some_and(|start| start.contains(&0)) {
        return Err("the text is UTF-16 (\"Unicode\" in some editors); save it as UTF-8".into());
    }
    // With one kind of line ending, and one after the last line, the reader's position gives the
    // line.
    let lines = String::from_utf8_lossy(bytes)
        .replace("\r\n", "\n")
        .replace('\r', "\n")
        + "\n";
    let text = lines.trim_start_matches('\u{feff}');
    let first = text.trim_start().lines().next().unwrap_or_default().trim();
    let mut delimiters = [b'\t', b';'].into_iter();
    let delimiter = delimiters.find(|sign| first.as_bytes().contains(sign));
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .delimiter(delimiter.unwrap_or(b','))
        .from_reader(text.as_bytes());
    let mut record = StringRecord::new();
    // The number of columns in the first line, and the column that has the ids.
    let mut columns = None;
    let mut users = Vec::new();
    let mut seen = HashSet::new();
    let mut lines = 0;
    while matches!(reader.read_record(&mut record), Ok(true)) {
        if record.iter().all(str::is_empty) {
            continue;
        }
        let line = reader.position().line() - 1;
        let at_line = |why| format!("line {line}: {why}");
        let heading = match columns {
            None => heading(&record).map_err(at_line)?,
            Some(_) => None,
        };
        let (count, of_ids) = *columns.get_or_insert((record.len(), heading.unwrap_or_default()));
        if heading.is_none() {
            let id = read_id(&record, count, of_ids).map_err(at_line)?;
            lines += 1;
            users.extend(Some(id).filter(|id| seen.insert(id.clone())));
        }
    }
    Ok(UserList { users, lines })
}

fn read_id(record: &StringRecord, count: usize, of_ids: usize) -> Result<UserId, String> {
    let columns = record.len();
    if columns != count {
        return Err(format!(
            "it has {columns} columns, which differs from the first line"
        ));
    }
    // A `'` before an id makes spreadsheets keep it as it is.
    let field = &record[of_ids];
    let id = field.strip_prefix('\'').unwrap_or(field);
    if is_rounded(id) {
        return Err("Excel has damaged this id: it is a rounded number such as 1.07693E+20; \
                    use the list from before it was opened there, or format the column as text first"
            .into());
    }
    id.parse().map_err(|error| format!("{error}"))
}

/// Words that are refused as a heading if the first line has only this one. `user_id`, as in the
/// CSV of issued coupons, is not among them: it names the column with the ids.
const HEADINGS: &str = "user id uid sub email member memberid customerid";

/// Returns the column `user_id` if the first line names it, or `None` if the line is an id. Other
/// headings are errors.
fn heading(first: &StringRecord) -> Result<Option<usize>, String> {
    let word = |field: &str| field.replace([' ', '_', '-'], "").to_ascii_lowercase();
    if let Some(column) = first.iter().position(|field| word(field) == "userid") {
        return Ok(Some(column));
    }
    let count = first.len();
    if count > 1 {
        return Err(format!(
            "it has {count} columns: give one id a line, or name the column with the ids user_id \
            in the first line"
        ));
    }
    let only = word(&first[0]);
    // User ids are ASCII.
    if !only.is_ascii() || HEADINGS.split(' ').any(|heading| heading == only) {
        return Err("it looks like a heading: remove it, or write user_id instead".into());
    }
    Ok(None)
}

/// Whether the id looks like a long number that a spreadsheet has rounded, such as 1.07693E+20.
fn is_rounded(id: &str) -> bool {
    id.split_once("E+").is_some_and(|(number, exponent)| {
        [number, exponent].iter().all(|text| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b','))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        let list = parse(text.as_ref())?;
        Ok(list.users.into_iter().map(String::from).collect())
    }

    #[test]
    fn lists_of_editors_and_spreadsheets_are_read() {
        for text in [
            "a\nb",
            "a\nb\n",
            "a\r\nb\r\n",
            "\u{feff}a\r\nb\r\n",
            "a\n\n  b \n\n \n",
            "\n\na\t\nb",
            "\"a\"\n\"b\"\n",
            "'a\n'b\n",
            "\u{feff}user_id\r\na\r\nb\r\n",
            "User ID\na\nb\n",
            "name,user_id\n\"Kim, Hana\",a\nLee,b\n",
            "user_id;name\na;김\n\"b\";\"x;y\"\n",
            "user_id\tname\na\tKim\nb\tLee\n",
        ] {
            assert_eq!(read(text), Ok(vec!["a".into(), "b".into()]), "{text:?}");
        }
        for id in [
            "a|b:c=d+e@f.g_h-1/",
            "+821012345678",
            "1e5",
            "E+5",
            "107693000000000000000",
        ] {
            assert_eq!(read(id), Ok(vec![id.into()]));
        }
    }

    #[test]
    fn csv_of_issued_coupons_is_read() {
        let csv = "drop_id,slot,user_id,code,claimed_at\r\n\
                   12,1,\"'+821012345678\",12-1-J4B3,2026-12-01T06:00:00.123Z\r\n\
                   12,2,u-2,12-2-K69R,2026-12-01T06:00:00.124Z\r\n";
        assert_eq!(read(csv), Ok(vec!["+821012345678".into(), "u-2".into()]));
    }

    #[test]
    fn repeated_ids_are_counted_but_name_one_user() {
        let list = parse("u-1\n".repeat(10_000).as_bytes()).unwrap();
        assert_eq!((list.lines, list.users.len()), (10_000, 1));
    }

    #[test]
    fn error_says_where_and_what_is_wrong_and_repeats_no_id() {
        for (text, says) in [
            ("a\nb c\nd", "line 2: a user id has"),
            ("a\n\nb c", "line 3: "),
            ("a,b", "line 1: it has 2 columns"),
            ("\"u1\";\"u2\"\n", "name the column with the ids user_id"),
            ("user_id,name\nu1,Kim,x", "line 2: it has 3 columns"),
            ("a\nb,c", "line 2: it has 2 columns"),
            ("Email\na@b", "line 1: it looks like a heading"),
            ("사용자ID\na", "line 1: it looks like a heading"),
            ("u-1\n1.07693E+20\n", "line 2: Excel has damaged this id"),
            ("8.20E+11", "Excel has damaged"),
            ("n;user_id\nx;1,07693E+20", "line 2: Excel has damaged"),
            ("a\n..", "line 2: "),
            (&format!("a\n{}", "x".repeat(129)), "line 2: "),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(says), "{text:?}: {refused}");
        }
        let utf16: Vec<u8> = "\u{feff}a\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        for text in [&utf16[..], &utf16[2..]] {
            assert!(read(text).unwrap_err().contains("UTF-16"), "{text:?}");
        }
        for odd in [
            &b"a\n\xff\n"[..],
            b"a\nb\0\n",
            b"a\n\xe2\x82\n",
            "a\nü\n".as_bytes(),
        ] {
            assert!(read(odd).unwrap_err().starts_with("line 2: "), "{odd:?}");
        }
        let secret = read("a\nalice@example.com secret\n").unwrap_err();
        assert!(
            !secret.contains("alice"),
            "the error repeats an id: {secret}"
        );
    }
}
