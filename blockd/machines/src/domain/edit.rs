//! A definition changed in places: what is not changed stays as it was, to the byte.

use roxmltree::Node;
use std::ops::Range;

/// Changes to a text.
pub struct Edits<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, String)>,
}

impl<'a> Edits<'a> {
    /// None yet.
    pub fn of(text: &'a str) -> Self {
        Self { text, edits: Vec::new() }
    }

    /// Puts this in an element's place.
    pub fn replace(&mut self, node: Node<'_, '_>, xml: impl Into<String>) {
        self.edits.push((node.range(), xml.into()));
    }

    /// Takes an element away.
    pub fn remove(&mut self, node: Node<'_, '_>) {
        self.replace(node, "");
    }

    /// Says what an element holds, which is text and has no attributes worth keeping if it is empty now.
    pub fn set_text(&mut self, node: Node<'_, '_>, text: &str) {
        match node.children().find(Node::is_text) {
            Some(child) => self.edits.push((child.range(), escape(text))),
            None => {
                let name = node.tag_name().name();
                self.replace(node, format!("<{name}>{}</{name}>", escape(text)));
            }
        }
    }

    /// Says what an attribute is that is there.
    pub fn set_attribute(&mut self, node: Node<'_, '_>, name: &str, value: &str) {
        if let Some(attribute) = node.attribute_node(name) {
            self.edits.push((attribute.range(), format!("{name}='{}'", escape(value))));
        }
    }

    /// Adds to the end of what an element holds.
    pub fn append(&mut self, node: Node<'_, '_>, xml: &str) {
        let range = node.range();
        let whole = &self.text[range.clone()];
        match whole.rfind("</") {
            Some(at) if !whole.ends_with("/>") => {
                self.edits.push((range.start + at..range.start + at, xml.to_owned()))
            }
            _ => {
                // its tag ends itself
                let open = whole.trim_end_matches("/>").trim_end();
                let name = open[1..].split(|letter: char| letter.is_whitespace()).next().unwrap_or_default();
                self.edits.push((range, format!("{open}>{xml}</{name}>")));
            }
        }
    }

    /// The text with all changes. One within another that is replaced whole is gone with it.
    pub fn apply(mut self) -> String {
        // of two that begin together the longer one first, and additions behind each other as they were asked for
        self.edits.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
        let (mut changed, mut at) = (String::with_capacity(self.text.len()), 0);
        for (range, xml) in self.edits {
            if range.start < at {
                continue;
            }
            changed.push_str(&self.text[at..range.start]);
            changed.push_str(&xml);
            at = range.end;
        }
        changed.push_str(&self.text[at..]);
        changed
    }
}

/// Text as it stands in XML, in elements and attributes alike.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use roxmltree::Document;

    #[test]
    fn what_is_not_changed_stays() {
        let text = "<a x='1'>\n <!-- kept --> <b y=\"2\">old</b><c/><d>z</d></a>";
        let document = Document::parse(text).expect("XML");
        let find = |name: &str| document.descendants().find(|node| node.has_tag_name(name)).expect("it");
        let mut edits = Edits::of(text);
        edits.set_text(find("b"), "n<w");
        edits.set_attribute(find("b"), "y", "a'b");
        edits.set_attribute(find("b"), "none", "x");
        edits.append(find("c"), "<e/>");
        edits.append(find("a"), "<f/>");
        edits.append(find("a"), "<g/>");
        edits.set_text(find("d"), "gone");
        edits.remove(find("d"));
        assert_eq!(
            edits.apply(),
            "<a x='1'>\n <!-- kept --> <b y='a&apos;b'>n&lt;w</b><c><e/></c><f/><g/></a>"
        );
    }
}
