//! The last head that came on a connection. Who asks again on a connection mostly asks alike, and a
//! server's answers differ once a second at most; what a head says depends on its bytes only, so that
//! the same bytes need not be parsed again.

use crate::http::HeaderBlock;

/// Longer heads are not remembered.
const HEAD_BYTES_MAX: usize = 1024;

/// The last head, if it is worth it, and what it said.
#[derive(Debug)]
pub(super) struct Recall<T> {
    last: Option<Box<Last<T>>>,
}

#[derive(Debug)]
struct Last<T> {
    bytes: Vec<u8>,
    block: HeaderBlock,
    parsed: T,
}

impl<T> Recall<T> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { last: None }
    }

    /// What the head at the front of `input` says, if it is the last one once more; its fields are put
    /// into `block`, which is empty.
    pub(super) fn find(&self, input: &[u8], block: &mut HeaderBlock) -> Option<&T> {
        let last = self.last.as_ref()?;
        if !input.starts_with(&last.bytes) {
            return None;
        }
        block.assign(&last.block);
        Some(&last.parsed)
    }

    /// Notes a whole head, from its first byte to the end of its empty line, and what it said.
    pub(super) fn store(&mut self, head: &[u8], block: &HeaderBlock, parsed: T) {
        if head.len() > HEAD_BYTES_MAX {
            return;
        }
        match &mut self.last {
            Some(last) => {
                last.bytes.clear();
                last.bytes.extend_from_slice(head);
                last.block.assign(block);
                last.parsed = parsed;
            }
            None => {
                let (bytes, block) = (head.to_vec(), block.clone());
                self.last = Some(Box::new(Last { bytes, block, parsed }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HEAD_BYTES_MAX, Recall};
    use crate::http::HeaderBlock;

    #[test]
    fn only_the_very_head_is_found_again() {
        let mut recall = Recall::new();
        let fields: HeaderBlock = [(":path", "/"), ("X-Mine", "1")].into_iter().collect();
        let found = |recall: &Recall<u8>, input: &[u8]| {
            let mut block = HeaderBlock::new();
            recall.find(input, &mut block).copied().map(|parsed| (parsed, block))
        };
        assert_eq!(found(&recall, b"GET / HTTP/1.1\r\n\r\n"), None);
        recall.store(b"GET / HTTP/1.1\r\n\r\n", &fields, 7);
        assert_eq!(found(&recall, b"GET / HTTP/1.1\r\n\r\nGET"), Some((7, fields.clone())));
        assert_eq!(found(&recall, b"GET / HTTP/1.1\r\n\r"), None);
        assert_eq!(found(&recall, b"GET / HTTP/1.1\r\nx:\r\n\r\n"), None);
        recall.store(b"GET /2 HTTP/1.1\r\n\r\n", &HeaderBlock::new(), 8);
        assert_eq!(found(&recall, b"GET /2 HTTP/1.1\r\n\r\n"), Some((8, HeaderBlock::new())));
        assert_eq!(found(&recall, b"GET / HTTP/1.1\r\n\r\n"), None);
        recall.store(&[b'a'; HEAD_BYTES_MAX + 1], &fields, 9);
        assert_eq!(found(&recall, &[b'a'; HEAD_BYTES_MAX + 1]), None);
    }
}
