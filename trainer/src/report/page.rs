//! The page around the sections: head, table of contents, and what all sections share.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use tissuemap::overlay::RESEARCH_USE_ONLY;

/// The style sheet; goes into the page, which refers to nothing outside itself.
const STYLE: &str = include_str!("style.css");

/// One part of the report.
pub(super) struct ReportSection {
    /// Anchor.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) body: Markup,
}

/// The whole page.
pub(super) fn page(title: &str, date: &str, sections: &[ReportSection]) -> String {
    let numbered = || sections.iter().enumerate().map(|(i, section)| (i + 1, section));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – tissue clusters" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a class="skip" href="#summary" { "Skip to the report" }
                nav aria-label="Contents" {
                    p class="brand" { "tissuemap" }
                    ol {
                        @for (_, section) in numbered() {
                            li { a href=(format!("#{}", section.id)) { (section.title) } }
                        }
                    }
                }
                main {
                    header {
                        p class="kicker" { "Tissue clusters found without labels · " time datetime=(date) { (date) } }
                        h1 { (title) }
                    }
                    @for (number, section) in numbered() {
                        section id=(section.id) aria-labelledby=(format!("{}-title", section.id)) {
                            h2 id=(format!("{}-title", section.id)) { span class="number" { (number) } (section.title) }
                            (section.body)
                        }
                    }
                    footer { (RESEARCH_USE_ONLY) }
                }
            }
        }
    };
    page.into_string()
}

/// Says why something is not there, and how to get it.
pub(super) fn absent(reason: impl maud::Render) -> Markup {
    html! { p class="absent" { (reason) } }
}

/// A reference to the literature: the only addresses in the page, and nothing is fetched from them.
pub(super) fn cite(text: &str, doi: &str) -> Markup {
    html! { a class="cite" href=(format!("https://doi.org/{doi}")) { (text) } }
}
