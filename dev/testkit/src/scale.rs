//! Measurements at two sizes: small in every `make test`, and at full size with `SCALE=full`.

/// Whether this runs with `SCALE=full`.
pub fn is_full() -> bool {
    std::env::var("SCALE").is_ok_and(|size| size == "full")
}

/// Measures `what` on a small installation and, with `SCALE=full`, at full size, and prints
/// the line `scale: what | at full size | small | target`. Returns the value of the larger
/// installation. A target has the format `≤ 20 ms`: a sign, a number, and optionally a unit.
pub async fn measured(
    what: &str,
    sizes: [u32; 2],
    target: &str,
    mut measure: impl AsyncFnMut(u32) -> f64,
) -> f64 {
    let measure = async |size| [measure(size).await];
    let [value] = measured_each([(what, target)], sizes, measure).await;
    value
}

/// Like [`measured`], for several figures of one measurement, each with its target.
pub async fn measured_each<const N: usize>(
    figures: [(&str, &str); N],
    [small, full]: [u32; 2],
    mut measure: impl AsyncFnMut(u32) -> [f64; N],
) -> [f64; N] {
    let on_small = measure(small).await;
    let at_full = if is_full() {
        Some(measure(full).await)
    } else {
        None
    };
    for (at, (what, target)) in figures.into_iter().enumerate() {
        let value = at_full.map_or_else(|| "-".to_owned(), |full| text(full[at], target));
        let small = text(on_small[at], target);
        println!("scale: {what} | {value} | {small} | {target}");
    }
    at_full.unwrap_or(on_small)
}

/// Prints the same line for a value that does not depend on the size.
pub fn print(what: &str, value: f64, target: &str) {
    println!("scale: {what} | {} | - | {target}", text(value, target));
}

/// Formats the value with the unit of the target.
fn text(value: f64, target: &str) -> String {
    let unit = target.split(' ').nth(2).unwrap_or_default();
    format!("{} {unit}", (value * 100.0).round() / 100.0)
        .trim()
        .to_owned()
}
