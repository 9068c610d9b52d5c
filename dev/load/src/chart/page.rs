//! The page around charts and tables.

use std::fmt::Write as _;

use super::escape;

/// Colours of lines and bars, light and dark. The last stands out: it is Firstcome's own.
const COLOURS: [(&str, &str); 13] = [
    ("#818b96", "#8b949e"),
    ("#8a4fff", "#b18cff"),
    ("#b58900", "#e3c04b"),
    ("#8a6d00", "#b8962e"),
    ("#2b7de9", "#6cb0ff"),
    ("#1f5fae", "#4688d8"),
    ("#e16f24", "#ff9a57"),
    ("#a84a10", "#d27a3f"),
    ("#c2428a", "#f083bd"),
    ("#178a84", "#4cc9c0"),
    ("#c62f2f", "#ff7b72"),
    ("#57606a", "#afb8c1"),
    ("#1a8f3c", "#4bd06f"),
];

const LIGHT: &str = "--text:#1b1f24;--soft:#5b6570;--line:#d8dee4;--back:#fff;--good:#1a7f37;--bad:#b3261e;";
const DARK: &str = "--text:#e6e9ec;--soft:#9aa4ae;--line:#353c44;--back:#14181c;--good:#57c878;--bad:#ff8a80;";
const SHAPES: &str = "svg .t{font:12.5px system-ui,-apple-system,sans-serif;fill:var(--soft)}svg .e{text-anchor:end}\
svg .m{text-anchor:middle}svg .v{fill:var(--text);font-weight:600}svg .g{stroke:var(--line)}\
svg polyline.l{fill:none;stroke-width:2;stroke-linejoin:round}svg .bad{fill:var(--bad);font-weight:600}\
svg .good{fill:var(--good);font-weight:600}";

/// The number of the colour that is Firstcome's own.
pub const OWN: usize = COLOURS.len() - 1;

fn colours(dark: bool) -> String {
    let mut css = if dark { DARK } else { LIGHT }.to_owned();
    for (number, colour) in COLOURS.iter().enumerate() {
        let _ = write!(css, "--c{number}:{};", if dark { colour.1 } else { colour.0 });
    }
    css
}

fn shapes() -> String {
    let mut css = SHAPES.to_owned();
    for number in 0..COLOURS.len() {
        let _ = write!(css, "svg .f.c{number}{{fill:var(--c{number})}}svg .l.c{number}{{stroke:var(--c{number})}}");
    }
    let _ = write!(css, "svg .l.c{OWN}{{stroke-width:3.5}}");
    css
}

/// A whole page that opens without a network: `about` stands below the title, `body` is HTML.
pub fn page(title: &str, about: &str, body: &str) -> String {
    let (title, about) = (escape(title), escape(about));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>:root{{color-scheme:light dark;{}}}@media(prefers-color-scheme:dark){{:root{{{}}}}}\
         {}{}</style><h1>{title}</h1><p class=\"soft\">{about}</p>{body}</html>\n",
        colours(false),
        colours(true),
        include_str!("page.css"),
        shapes(),
    )
}

/// A chart as a picture of its own, for a page that gives it no colours.
pub fn standalone(svg: &str, dark: bool) -> String {
    let style = format!(
        "<style>svg{{{}}}{}</style><rect width=\"100%\" height=\"100%\" fill=\"var(--back)\"/>",
        colours(dark),
        shapes()
    );
    svg.replacen("</title>", &format!("</title>{style}"), 1) + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::{Bar, bars};
    use super::*;

    #[test]
    fn nothing_is_fetched() {
        let svg = bars("t", "s", &[Bar { name: "n".into(), colour: OWN, value: 1.0 }], false);
        for text in [page("Title", "about <it>", &svg), standalone(&svg, true)] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http") && !text.contains("<script") && !text.contains("url("), "{text}");
        }
    }

    #[test]
    fn a_picture_has_its_own_colours() {
        let svg = bars("t", "s", &[], false);
        assert!(standalone(&svg, true).contains(DARK) && standalone(&svg, false).contains(LIGHT));
    }
}
