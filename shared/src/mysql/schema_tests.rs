//! Compares `schema.rs` with a migrated database. After a change of a migration:
//! `WRITE_SCHEMA=1 cargo test -p firstcome-shared schema`.

use std::fmt::Write as _;
use std::time::Duration;

use firstcome_stack::{MysqlOptions, MysqlServer};

use super::{DbSettings, migrations};

const DATABASE: &str = "firstcome";

/// Prints what `diesel print-schema` prints with the settings of `diesel.toml`.
async fn printed(server: &MysqlServer) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = "// @generated automatically by Diesel CLI.\n".to_owned();
    let tables = format!(
        "SELECT t.table_name, (SELECT GROUP_CONCAT(k.column_name ORDER BY k.ordinal_position SEPARATOR ', ') \
         FROM information_schema.key_column_usage k WHERE k.table_schema = t.table_schema \
         AND k.table_name = t.table_name AND k.constraint_name = 'PRIMARY') \
         FROM information_schema.tables t WHERE t.table_schema = '{DATABASE}' \
         AND t.table_name <> '__diesel_schema_migrations' ORDER BY t.table_name"
    );
    let tables = server.query(&tables).await?;
    for table in &tables {
        let [name, key] = table.as_slice() else {
            return Err("a table has a name and a key".into());
        };
        write!(
            text,
            "\ndiesel::table! {{\n    use diesel::sql_types::*;\n    use crate::columns::Datetime;\n\n    {name} ({key}) {{\n"
        )?;
        let columns = format!(
            "SELECT column_name, column_type, is_nullable FROM information_schema.columns \
             WHERE table_schema = '{DATABASE}' AND table_name = '{name}' ORDER BY ordinal_position"
        );
        for column in server.query(&columns).await? {
            let [name, stored, nullable] = column.as_slice() else {
                return Err("a column has a name and a type".into());
            };
            let (base, length) = stored.split_once('(').unwrap_or((stored, ""));
            if base.contains("char") || base.contains("binary") {
                writeln!(
                    text,
                    "        #[max_length = {}]",
                    length.trim_end_matches(')')
                )?;
            }
            let mut rust = match base.trim_end_matches(" unsigned") {
                "tinyint" if stored == "tinyint(1)" => "Bool".to_owned(),
                "int" => "Integer".to_owned(),
                other => other[..1].to_uppercase() + &other[1..],
            };
            if base.ends_with(" unsigned") {
                rust = format!("Unsigned<{rust}>");
            }
            if nullable == "YES" {
                rust = format!("Nullable<{rust}>");
            }
            writeln!(text, "        {name} -> {rust},")?;
        }
        text.push_str("    }\n}\n");
    }
    let joins = format!(
        "SELECT table_name, MIN(referenced_table_name), MIN(column_name) FROM information_schema.key_column_usage \
         WHERE table_schema = '{DATABASE}' AND referenced_table_name IS NOT NULL \
         GROUP BY table_name, constraint_name HAVING COUNT(*) = 1 ORDER BY 1, 2"
    );
    text.push('\n');
    for join in server.query(&joins).await? {
        let [child, parent, column] = join.as_slice() else {
            return Err("a foreign key has two tables and a column".into());
        };
        writeln!(text, "diesel::joinable!({child} -> {parent} ({column}));")?;
    }
    text.push_str("\ndiesel::allow_tables_to_appear_in_same_query!(\n");
    for table in &tables {
        writeln!(text, "    {},", table[0])?;
    }
    text.push_str(");\n");
    Ok(text)
}

#[tokio::test]
async fn schema_is_what_diesel_prints_of_a_migrated_database() {
    let server = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let settings = DbSettings {
        url: server.database_url(DATABASE).into(),
        pool_size: 1,
        limit: Duration::from_secs(10),
    };
    migrations::migrate(&settings, migrations::Tables::All)
        .await
        .unwrap();
    let printed = printed(&server).await.unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/schema.rs");
    if std::env::var_os("WRITE_SCHEMA").is_some() {
        std::fs::write(file, &printed).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), printed);
}
