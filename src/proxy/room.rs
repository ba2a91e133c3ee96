//! Where the future of a request lives. It is larger than what allocators hand out quickly, so that its
//! memory is kept and used again by the next request, whoever made it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{connection::Origin, stream::Incoming};

/// A room for the story of one request after the other.
pub(super) trait Room {
    /// Begins the story of a request; that of the one before is gone.
    fn begin(self: Pin<&mut Self>, origin: Rc<Origin>, incoming: Incoming);

    /// Goes on with it.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;

    /// Drops it and what it holds.
    fn clear(self: Pin<&mut Self>);
}

/// A room that can move with whoever has it.
pub(super) type Boxed = Pin<Box<dyn Room>>;

pin_project! {
    struct Of<M, F> {
        make: M,
        #[pin]
        story: Option<F>,
    }
}

/// A room for the stories that `make` makes.
pub(super) fn new<M, F>(make: M) -> Boxed
where
    M: Fn(Rc<Origin>, Incoming) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    Box::pin(Of { make, story: None })
}

impl<M: Fn(Rc<Origin>, Incoming) -> F, F: Future<Output = ()>> Room for Of<M, F> {
    fn begin(self: Pin<&mut Self>, origin: Rc<Origin>, incoming: Incoming) {
        let mut this = self.project();
        let story = (this.make)(origin, incoming);
        this.story.set(Some(story));
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project().story.as_pin_mut() {
            Some(story) => story.poll(cx),
            None => Poll::Ready(()),
        }
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().story.set(None);
    }
}
