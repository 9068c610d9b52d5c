//! Measurements at two sizes: small in every `make test`, and at full size too in `cargo xtask
//! scale`, which makes a table of the lines printed here.

/// Whether this is `cargo xtask scale`.
pub fn is_full() -> bool {
    std::env::var("SCALE").is_ok_and(|size| size == "full")
}

/// Measures `what` on a small installation and, in `cargo xtask scale`, at full size, and prints
/// the line `scale: what | at full size | small | target`. Gives the value of the larger one
/// measured. A target is as `≤ 20 ms`: a sign, a number, and the unit, if there is one.
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

/// Prints the same line for what has no size.
pub fn print(what: &str, value: f64, target: &str) {
    println!("scale: {what} | {} | - | {target}", text(value, target));
}

/// With the unit of the target.
fn text(value: f64, target: &str) -> String {
    let unit = target.split(' ').nth(2).unwrap_or_default();
    format!("{} {unit}", (value * 100.0).round() / 100.0)
        .trim()
        .to_owned()
}
