//! Coupon systems of other teams as data: what their API and their consumer do, how one breaks, and
//! the file that describes it. The tests of attach prove each; `cargo xtask attach-demo` shows ten.

pub mod fresh;
pub mod postgres;
pub mod published;
pub mod shapes;
pub mod tickets;

/// Which database a team uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    Mysql,
    Mariadb,
    Postgres,
}

/// Who writes a lost row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// The reconciler, once a person has confirmed a first plan of the text.
    Unasked,
    /// The reconciler, if a person confirms it.
    Asks,
    /// Their own program or a person.
    Observes,
}

/// What happens, and what the reconciler then calls it.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub steps: &'static [&'static str],
    pub named: &'static [&'static str],
}

const fn fault(steps: &'static [&'static str], named: &'static [&'static str]) -> Fault {
    Fault { steps, named }
}

/// A system. The quantity is [`QUANTITY`].
#[derive(Debug, Clone, Copy)]
pub struct System {
    pub name: &'static str,
    pub product: Product,
    pub opens: &'static [&'static str],
    /// What their API does for a winner.
    pub admits: &'static [&'static str],
    /// What their consumer does.
    pub issues: &'static [&'static str],
    /// The file without its addresses.
    pub file: &'static str,
    /// Takes the row of `{U}`.
    pub loses: &'static [&'static str],
    /// What that is called.
    pub named: &'static [&'static str],
    pub repair: Repair,
    /// Further faults. Then the printed commands are run.
    pub faults: &'static [Fault],
}

pub const QUANTITY: u32 = 30;

/// Writes a user into steps: `{U}` is the number, and `{UUID}` an id made of it.
pub fn for_user(steps: &[&str], user: u32) -> Vec<String> {
    let uuid = format!("0193a1f2-7c00-7d31-8000-{user:012}");
    let user = user.to_string();
    let steps = steps.iter();
    let steps = steps.map(|step| step.replace("{UUID}", &uuid).replace("{U}", &user));
    steps.collect()
}

/// Whether a step is a statement, and no command of Redis. In a command, `@` is the prefix of keys.
pub fn is_statement(step: &str) -> bool {
    const WORDS: [&str; 8] = [
        "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "TRUNCATE", "REPLACE",
    ];
    WORDS.iter().any(|word| step.starts_with(word))
}

/// Returns the command of Redis in a printed line.
pub fn command(line: &str) -> Option<&str> {
    let command = line
        .split_once("nothing changed: ")
        .map_or(line, |(_, command)| command);
    let is_command = ["SADD ", "EVAL "]
        .iter()
        .any(|word| command.starts_with(word));
    is_command.then_some(command)
}
