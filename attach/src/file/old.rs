//! Words of an earlier form of the file, and the lines to write instead.

use toml::{Table, Value};

/// Words whose meaning a statement of the team now has.
const GONE: [(&str, &str); 7] = [
    (
        "quantity_sql",
        "each = \"SELECT id, name, quantity FROM …\"",
    ),
    ("stock", "a second statement in issue, and a check"),
    ("sale", "a check"),
    ("ends", "a condition in each"),
    ("time_zone", "a condition in each"),
    (
        "repair_limit",
        "nothing: at most 50 rows a day are written unasked",
    ),
    (
        "max_rows_per_second",
        "nothing: a campaign rests for ten times what its look took",
    ),
];

/// Returns a sentence for each such word of the file.
pub(super) fn words(file: &Table) -> Vec<String> {
    let campaigns = file
        .get("campaign")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_table);
    let mut said = gone(file, "the file");
    for campaign in campaigns {
        let name = text(campaign, "name");
        let place = format!("campaign {name:?}");
        if let Some(rows) = campaign.get("rows").and_then(Value::as_table) {
            let issued = issued(rows);
            said.push(format!(
                "{place}: `rows` is gone: write issued = \"{issued}\""
            ));
        }
        if let Some(users) = campaign.get("users").and_then(Value::as_table) {
            let kind = text(users, "type").replace(' ', "_");
            let value = if kind == "hash" {
                ", value = \"*\""
            } else {
                ""
            };
            let key = text(users, "key");
            said.push(format!(
                "{place}: `users` is gone: write promised = {{ {kind} = {key:?}{value} }}"
            ));
        }
        said.extend(gone(campaign, &place));
    }
    said
}

fn gone(table: &Table, place: &str) -> Vec<String> {
    let words = GONE.iter().filter(|(word, _)| table.contains_key(*word));
    words
        .map(|(word, instead)| format!("{place}: `{word}` is gone: write {instead}"))
        .collect()
}

fn issued(rows: &Table) -> String {
    let conditions: Vec<String> = rows
        .get("where")
        .and_then(Value::as_table)
        .into_iter()
        .flatten()
        .map(|(column, value)| match value {
            Value::String(text) => format!("{column} = '{text}'"),
            Value::Integer(number) => format!("{column} = {number}"),
            _ => format!("{column} = …"),
        })
        .collect();
    let filter = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    format!(
        "SELECT {} FROM {}{filter}",
        text(rows, "user"),
        text(rows, "table")
    )
}

fn text<'a>(table: &'a Table, word: &str) -> &'a str {
    table.get(word).and_then(Value::as_str).unwrap_or("…")
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn old_words_are_answered_with_the_line_to_write() {
        let file = r#"
            [[campaign]]
            name = "Winter"
            quantity_sql = "SELECT 1"
            rows = { table = "coupon", where = { event_id = 7 }, user = "user_id" }
            users = { type = "sorted set", key = "c:7" }
        "#;
        let said = words(&toml::from_str(file).unwrap());
        assert_eq!(
            said,
            [
                "campaign \"Winter\": `rows` is gone: write issued = \"SELECT user_id FROM coupon \
                WHERE event_id = 7\"",
                "campaign \"Winter\": `users` is gone: write promised = { sorted_set = \"c:7\" }",
                "campaign \"Winter\": `quantity_sql` is gone: write each = \"SELECT id, name, \
                quantity FROM …\"",
            ]
        );
    }
}
