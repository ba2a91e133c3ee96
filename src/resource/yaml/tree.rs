//! YAML as a tree of nodes that know where they stand. JSON is YAML, so it is read here too.
//!
//! The tree is bounded before it is built: by the length of the text, by depth, and by its number
//! of nodes, to which every use of an alias counts with all that it repeats. A syntax error ends
//! its document only; reading goes on at the next `---`.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

/// The longest text.
pub(super) const TEXT_BYTES_MAX: usize = 10 << 20;
/// The deepest nesting: no message has a third of it.
pub(super) const DEPTH_MAX: usize = 64;
/// All nodes of a text.
const NODES_MAX: usize = 1_000_000;

/// Where something stands: line and column from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
    /// In characters, at least 1; 1 for what goes over several lines.
    pub(super) width: u32,
}

/// A value in the text.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) mark: Mark,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the text, duplicates and all.
    Map(Vec<(Node, Node)>),
}

#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: Box<str>,
    /// Neither quoted nor a block: it may be a number, a truth value or nothing.
    pub(super) plain: bool,
}

/// What a tree can not be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) message: String,
    pub(super) mark: Mark,
}

impl SyntaxError {
    fn new(message: impl Into<String>, mark: Mark) -> Self {
        Self { message: message.into(), mark }
    }
}

impl Scalar {
    /// Whether it says that there is nothing.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    /// Whether it says that there is nothing.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.is_null())
    }

    /// Its text, if it is a scalar that says something.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(scalar) if !scalar.is_null() => Some(&scalar.text),
            Content::Scalar(_) | Content::List(_) | Content::Map(_) => None,
        }
    }

    /// The first value of a key, if it is a map that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&(Self, Self)> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(k, _)| k.text() == Some(key)),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(Self::size).sum(),
            Content::Map(entries) => entries.iter().map(|(k, v)| k.size() + v.size()).sum(),
        }
    }

    fn height(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(Self::height).max().unwrap_or(0),
            Content::Map(entries) => {
                entries.iter().map(|(k, v)| k.height().max(v.height())).max().unwrap_or(0)
            }
        }
    }
}

/// Reads every document of a text; empty ones are left out.
pub(super) fn parse(text: &str) -> Vec<Result<Node, SyntaxError>> {
    if text.len() > TEXT_BYTES_MAX {
        let start = Mark { line: 1, column: 1, width: 1 };
        return vec![Err(SyntaxError::new("the text is longer than 10MiB", start))];
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { parser, anchors: HashMap::new(), room: NODES_MAX };
    let mut documents = Vec::new();
    loop {
        match reader.document() {
            Ok(Some(node)) if node.is_null() => {}
            Ok(Some(node)) => documents.push(Ok(node)),
            Ok(None) => return documents,
            Err(error) => {
                documents.push(Err(error));
                let more = reader.room > 0 && reader.parser.proceed_next_document() == Ok(true);
                if !more {
                    return documents;
                }
            }
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    /// How many nodes may still be made.
    room: usize,
}

impl<'t> Reader<'t> {
    /// The next document; `None` at the end.
    fn document(&mut self) -> Result<Option<Node>, SyntaxError> {
        loop {
            match self.next()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::DocumentStart(..), _)) => break,
                Some(_) => {}
            }
        }
        self.anchors.clear();
        let Some((event, span)) = self.next()? else { return Ok(None) };
        let node = self.node(event, &span, 1)?;
        loop {
            match self.next()? {
                None | Some((Event::DocumentEnd, _)) => return Ok(Some(node)),
                Some(_) => {}
            }
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, SyntaxError> {
        self.parser.next_event().transpose().map_err(|error| scan_error(&error))
    }

    /// The node that begins with this event.
    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, SyntaxError> {
        let mark = mark(span);
        if depth > DEPTH_MAX {
            return Err(SyntaxError::new(format!("nested deeper than {DEPTH_MAX}"), mark));
        }
        self.take_room(1, mark)?;
        let (content, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, mark, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !is_string(tag.as_deref(), mark)?;
                let scalar = Scalar { text: text.into(), plain };
                (Content::Scalar(scalar), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                is_string(tag.as_deref(), mark)?;
                (Content::List(self.items(depth)?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                is_string(tag.as_deref(), mark)?;
                (Content::Map(self.entries(depth)?), anchor)
            }
            _ => return Err(SyntaxError::new("a value is missing", mark)),
        };
        let mark = match &content {
            // A block begins with its first key, which is shown for it.
            Content::Map(entries) => entries
                .first()
                .map(|(key, _)| key.mark)
                .filter(|key| (key.line, key.column) == (mark.line, mark.column))
                .unwrap_or(mark),
            Content::Scalar(_) | Content::List(_) => mark,
        };
        let node = Node { content, mark };
        if anchor != 0 {
            // What is kept for aliases is held once more.
            self.take_room(node.size(), mark)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                None | Some((Event::SequenceEnd, _)) => return Ok(items),
                Some((event, span)) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(Node, Node)>, SyntaxError> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = match self.next()? {
                None | Some((Event::MappingEnd, _)) => return Ok(entries),
                Some(next) => next,
            };
            let key = self.node(event, &span, depth + 1)?;
            if !matches!(key.content, Content::Scalar(_)) {
                return Err(SyntaxError::new("a key must be a plain word", key.mark));
            }
            let Some((event, span)) = self.next()? else { return Ok(entries) };
            entries.push((key, self.node(event, &span, depth + 1)?));
        }
    }

    fn alias(&mut self, anchor: usize, mark: Mark, depth: usize) -> Result<Node, SyntaxError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new("an alias within what it repeats", mark));
        };
        let (size, height) = (node.size(), node.height());
        if depth + height > DEPTH_MAX {
            return Err(SyntaxError::new(format!("nested deeper than {DEPTH_MAX}"), mark));
        }
        self.take_room(size, mark)?;
        self.anchors
            .get(&anchor)
            .cloned()
            .ok_or_else(|| SyntaxError::new("an alias of nothing", mark))
    }

    fn take_room(&mut self, nodes: usize, mark: Mark) -> Result<(), SyntaxError> {
        let left = self.room.checked_sub(nodes);
        self.room = left.unwrap_or(0);
        let message = "more than 1000000 values in one text";
        left.map(|_| ()).ok_or_else(|| SyntaxError::new(message, mark))
    }
}

/// Whether a tag makes a text of a plain scalar. Tags of the core schema that change nothing are
/// let by; others would silently mean nothing here.
fn is_string(tag: Option<&Tag>, mark: Mark) -> Result<bool, SyntaxError> {
    let Some(tag) = tag else { return Ok(false) };
    match tag.core_suffix() {
        Some("str") => Ok(true),
        Some("int" | "bool" | "float" | "null" | "map" | "seq") => Ok(false),
        _ => Err(SyntaxError::new(format!("a tag that is not known: {}", tag.original()), mark)),
    }
}

fn mark(span: &Span) -> Mark {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let one_line = span.start.line() == span.end.line() && span.end.col() > span.start.col();
    Mark {
        line: number(span.start.line()).max(1),
        column: number(span.start.col()).saturating_add(1),
        width: if one_line { number(span.end.col() - span.start.col()) } else { 1 },
    }
}

fn scan_error(error: &ScanError) -> SyntaxError {
    let place = error.marker();
    SyntaxError::new(error.info(), mark(&Span::empty(*place)))
}

#[cfg(test)]
mod tests {
    use super::{Content, DEPTH_MAX, Node, TEXT_BYTES_MAX, parse};

    fn one(text: &str) -> Node {
        let mut documents = parse(text);
        assert_eq!(documents.len(), 1, "{text}");
        documents.remove(0).expect(text)
    }

    fn refused(text: &str) -> (String, u32, u32) {
        let errors = parse(text).into_iter().filter_map(Result::err).collect::<Vec<_>>();
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        (error.message.clone(), error.mark.line, error.mark.column)
    }

    #[test]
    fn nodes_know_where_they_stand() {
        let node = one("a: 1\nb:\n  - {c: long, d: [x]}\n");
        let (key, b) = node.entry("b").expect("b");
        assert_eq!((key.mark.line, key.mark.column, key.mark.width), (2, 1, 1));
        let Content::List(items) = &b.content else { panic!("{b:?}") };
        let item = items[0].mark;
        assert_eq!((item.line, item.column), (3, 5));
        let (_, c) = items[0].entry("c").expect("c");
        assert_eq!((c.mark.line, c.mark.column, c.mark.width), (3, 9, 4));
    }

    #[test]
    fn columns_count_characters() {
        let node = one("{\"é\": x}");
        assert_eq!(node.entry("é").expect("é").1.mark.column, 7);
    }

    #[test]
    fn only_plain_words_say_nothing() {
        for (text, null) in [
            ("a:", true),
            ("a: ~", true),
            ("a: null", true),
            ("a: ''", false),
            ("a: \"null\"", false),
            ("a: !!str null", false),
            ("a: nil", false),
        ] {
            assert_eq!(one(text).entry("a").expect("a").1.is_null(), null, "{text}");
        }
    }

    #[test]
    fn documents_without_content_are_left_out() {
        for (text, count) in [
            ("", 0),
            ("# only a comment\n", 0),
            ("---\n---\n", 0),
            ("---\na: 1\n---\n# none\n---\nb: 1\n...\n", 2),
            ("\u{feff}a: 1", 1),
        ] {
            assert_eq!(parse(text).len(), count, "{text:?}");
        }
    }

    #[test]
    fn a_broken_document_does_not_hide_the_next() {
        let documents = parse("a: [1\n---\nb: 1\n---\nc: }\n---\nd: 1\n");
        let good = documents.iter().map(Result::is_ok).collect::<Vec<_>>();
        assert_eq!(good, [false, true, false, true]);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            let items = [alias.as_str(); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        let (message, line, _) = refused(&text);
        assert!(message.starts_with("more than 1000000 values"), "{message}");
        assert!(line > 1);
        assert_eq!(refused("a: &a [*a]").0, "an alias within what it repeats");
        assert!(refused("a: *a").0.contains("anchor"));
        let node = one("a: &a {b: c}\nd: *a\n");
        assert!(node.entry("d").expect("d").1.entry("b").is_some());
    }

    #[test]
    fn what_is_too_deep_or_too_long_is_refused() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&deep(DEPTH_MAX))[0].is_ok());
        for n in [DEPTH_MAX + 1, 100_000] {
            assert!(parse(&deep(n))[0].is_err(), "{n}");
        }
        let block = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
        assert!(parse(&block)[0].is_err());
        let mut mixed = String::new();
        for i in 0..DEPTH_MAX {
            mixed.push_str(&format!("{}- \n", " ".repeat(i)));
        }
        mixed.push_str(&format!("{}{}", " ".repeat(DEPTH_MAX), deep(8)));
        assert!(parse(&mixed)[0].is_err());
        assert!(parse(&" ".repeat(TEXT_BYTES_MAX + 1))[0].is_err());
    }

    #[test]
    fn unknown_tags_and_strange_keys_are_refused() {
        assert_eq!(refused("a: !secret x").0, "a tag that is not known: !secret");
        assert_eq!(refused("[a]: b"), ("a key must be a plain word".to_owned(), 1, 1));
        assert_eq!(refused("a: b\n c: d").1, 2);
    }
}
