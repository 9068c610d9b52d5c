//! Measurements at two sizes: small in every `make test`, and additionally at full size in `cargo
//! xtask scale`, which collects the lines printed here in a table.

/// Whether this is `cargo xtask scale`.
pub fn is_full() -> bool {
    std::env::var("SCALE").is_ok_and(|size| size == "full")
}

/// Measures `what` on a small installation and, in `cargo xtask scale`, at full size, and prints
/// the line `scale: what | at full size | small | target`. Returns the larger installation's value.
/// A target has the form `≤ 20 ms`: a sign, a number, and optionally a unit.
pub async fn measured(
    what: &str,
    [small, full]: [u32; 2],
    target: &str,
    mut measure: impl AsyncFnMut(u32) -> f64,
) -> f64 {
    let on_small = measure(small).await;
    let (last, at_full) = if is_full() {
        let value = measure(full).await;
        (value, text(value, target))
    } else {
        (on_small, "-".to_owned())
    };
    println!(
        "scale: {what} | {at_full} | {} | {target}",
        text(on_small, target)
    );
    last
}

/// Prints the same line for a value that does not depend on the size.
pub fn print(what: &str, value: f64, target: &str) {
    println!("scale: {what} | {} | - | {target}", text(value, target));
}

/// The value with the unit of the target.
fn text(value: f64, target: &str) -> String {
    let unit = target.split(' ').nth(2).unwrap_or_default();
    format!("{} {unit}", (value * 100.0).round() / 100.0)
        .trim()
        .to_owned()
}
