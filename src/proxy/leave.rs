//! What becomes of requests that are left when the time to end in order is up: their stories are
//! dropped, each of which tells its caller why and leaves its record. Their connections, which have
//! been asked to end, do so when the last word is written.

use std::rc::Rc;

use super::{
    host::End,
    link::Link,
    splice::{Listener, Stream},
};

impl Link {
    /// Ends the stories of its requests.
    pub(super) fn cut_off(self: &Rc<Self>) {
        let End::Near(_) = &self.end else { return };
        let streams: Vec<_> = self.streams.borrow().all().map(Rc::clone).collect();
        streams.iter().for_each(abandon);
    }
}

fn abandon(stream: &Rc<Stream>) {
    let listener = stream.listener.replace(Listener::Nobody);
    match listener {
        Listener::Story(story) => stream.link.hub.tasks.cancel(story),
        other => *stream.listener.borrow_mut() = other,
    }
}
