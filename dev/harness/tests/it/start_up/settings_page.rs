//! The page of all settings, made from the help of every command.

use std::collections::BTreeMap;

const HEAD: &str = "# Settings

For operators: every setting, as `--help` gives it; for `attach` see `attach --help`. Generated: change the help, then run
`WRITE_SETTINGS=1 cargo test -p firstcome-harness --test it settings_page`. Each is also a flag (`--listen-addr`).
`SSL_CERT_FILE` and `OTEL_*` are variables only. What each needs in production: [SETUP](SETUP.md#settings).
";

/// A setting, as the help of one command describes it.
#[derive(Default)]
struct Setting {
    group: String,
    text: Vec<String>,
    default: Option<String>,
    commands: Vec<String>,
}

impl Setting {
    fn default_value(&self) -> String {
        let default = self.default.as_ref();
        default.map_or_else(String::new, |value| format!("`{value}`"))
    }

    fn meaning(&self) -> String {
        self.text.join(" ").replace('|', "\\|")
    }
}

/// Describes the settings in the help of these commands, grouped by the help's headings. Commands
/// whose default differs have a line of their own.
pub(super) fn page(helps: &[(String, String)]) -> String {
    let mut groups: Vec<String> = Vec::new();
    let mut settings: BTreeMap<[String; 2], Setting> = BTreeMap::new();
    for (command, help) in helps {
        for (name, setting) in settings_of(help) {
            if !groups.contains(&setting.group) {
                groups.push(setting.group.clone());
            }
            let line = [name, setting.default_value()];
            let entry = settings.entry(line).or_insert(setting);
            if !entry.commands.contains(command) {
                entry.commands.push(command.clone());
            }
        }
    }
    let mut page = HEAD.to_owned();
    for group in groups {
        let in_group = settings
            .iter()
            .filter(|(_, setting)| setting.group == group);
        let in_group: Vec<(&[String; 2], &Setting)> = in_group.collect();
        let Some((_, first)) = in_group.first() else {
            continue;
        };
        let is_for_same_commands =
            |(_, setting): &(&[String; 2], &Setting)| setting.commands == first.commands;
        page = format!("{page}\n## {group}\n\n");
        if in_group.iter().all(is_for_same_commands) {
            let commands = first.commands.join(", ");
            page = format!("{page}Of {commands}:\n\n| Setting | Default | |\n|---|---|---|\n");
            for ([name, default], setting) in in_group {
                let meaning = setting.meaning();
                page = format!("{page}| `{name}` | {default} | {meaning} |\n");
            }
        } else {
            page = format!("{page}| Setting | Default | Of | |\n|---|---|---|---|\n");
            for ([name, default], setting) in in_group {
                let meaning = setting.meaning();
                let commands = setting.commands.join(", ");
                page = format!("{page}| `{name}` | {default} | {commands} | {meaning} |\n");
            }
        }
    }
    page
}

/// Returns the settings of one help. A block of an option ends where the next one begins.
fn settings_of(help: &str) -> Vec<(String, Setting)> {
    let mut found = Vec::new();
    let mut group = String::new();
    let mut block: Option<(Option<String>, Setting)> = None;
    let mut end = |block: Option<(Option<String>, Setting)>| {
        if let Some((Some(name), setting)) = block {
            found.push((name, setting));
        }
    };
    for line in help.lines() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if indent == 0 && !text.is_empty() {
            end(block.take());
            if let Some(heading) = text.strip_suffix(':') {
                heading.clone_into(&mut group);
            }
        } else if text.starts_with("--") && indent <= 6 || text.starts_with("-h, ") {
            end(block.take());
            let setting = Setting {
                group: group.clone(),
                ..Setting::default()
            };
            block = Some((None, setting));
        } else if let Some((name, setting)) = &mut block {
            if let Some(rest) = text.strip_prefix("[env: ") {
                let end = rest.find(['=', ']']).unwrap_or(rest.len());
                *name = Some(rest[..end].to_owned());
            } else if let Some(rest) = text.strip_prefix("[default: ") {
                setting.default = Some(rest.trim_end_matches(']').to_owned());
            } else if !text.is_empty() {
                setting.text.push(text.to_owned());
            }
        }
    }
    end(block);
    found
}
