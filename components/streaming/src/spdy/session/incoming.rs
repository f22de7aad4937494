//! What the peer's control frames do.

use super::{Event, Headers, Role, STREAMS_LIMIT, Session};
use crate::spdy::{
    SessionError,
    frame::{Control, ResetStatus, SETTING_INITIAL_WINDOW},
    streams::WIDEST,
};

impl Session {
    pub(super) fn control(
        &mut self,
        frame: Control<'_>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        match frame {
            Control::SynStream { stream, fin, unidirectional, block } => {
                let headers = self.decoder.decode(block)?;
                self.opened(stream, fin, unidirectional, headers, sink)?;
            }
            Control::SynReply { stream, fin, block } => {
                let headers = self.decoder.decode(block)?;
                self.replied(stream, fin, headers, sink);
            }
            Control::Headers { stream, fin, block } => {
                // Decoded in any case: the compression goes on from here.
                let headers = self.decoder.decode(block)?;
                if self.streams.get_mut(stream).is_none_or(|open| !open.receiving) {
                    return Ok(());
                }
                match headers {
                    Some(headers) => {
                        sink(Event::Headers { stream, headers });
                        if fin {
                            self.peer_finished(stream, sink);
                        }
                    }
                    None => self.reject(stream, sink),
                }
            }
            Control::RstStream { stream, status } => {
                if self.streams.remove(stream).is_some() {
                    sink(Event::Reset { stream, status });
                }
            }
            Control::Settings(pairs) => {
                for (_, value) in pairs.into_iter().filter(|(id, _)| *id == SETTING_INITIAL_WINDOW) {
                    self.resize_windows(value, sink)?;
                }
            }
            Control::Ping(id) if (id % 2 == 1) == (self.role == Role::Server) => {
                self.write(&Control::Ping(id));
            }
            Control::Ping(id) => sink(Event::Pong(id)),
            Control::GoAway { .. } => sink(Event::GoneAway),
            Control::WindowUpdate { stream, delta } => self.widen(stream, delta, sink)?,
        }
        Ok(())
    }

    fn opened(
        &mut self,
        stream: u32,
        fin: bool,
        unidirectional: bool,
        headers: Option<Headers>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        if stream == 0 || !self.is_peers(stream) || stream <= self.last_peer {
            return Err(SessionError::StreamId(stream));
        }
        self.last_peer = stream;
        let refused = if self.gone || self.streams.len() >= STREAMS_LIMIT {
            Some(ResetStatus::RefusedStream)
        } else {
            headers.is_none().then_some(ResetStatus::ProtocolError)
        };
        if let Some(status) = refused {
            self.write(&Control::RstStream { stream, status: status as u32 });
            return Ok(());
        }
        self.streams.insert(stream, self.new_stream(!unidirectional, true));
        sink(Event::Opened { stream, headers: headers.unwrap_or_default() });
        if fin {
            self.peer_finished(stream, sink);
        }
        Ok(())
    }

    fn replied(&mut self, stream: u32, fin: bool, headers: Option<Headers>, sink: &mut dyn FnMut(Event<'_>)) {
        let peers = self.is_peers(stream);
        let Some(open) = self.streams.get_mut(stream) else { return };
        if peers || headers.is_none() {
            return self.reject(stream, sink);
        }
        if std::mem::replace(&mut open.replied, true) {
            self.reset(stream, ResetStatus::StreamInUse);
            return sink(Event::Reset { stream, status: ResetStatus::StreamInUse as u32 });
        }
        sink(Event::Replied { stream });
        if fin {
            self.peer_finished(stream, sink);
        }
    }

    /// The peer broke a rule that concerns this stream only.
    fn reject(&mut self, stream: u32, sink: &mut dyn FnMut(Event<'_>)) {
        self.reset(stream, ResetStatus::ProtocolError);
        sink(Event::Reset { stream, status: ResetStatus::ProtocolError as u32 });
    }

    pub(super) fn peer_finished(&mut self, stream: u32, sink: &mut dyn FnMut(Event<'_>)) {
        if self.streams.end_receiving(stream) {
            sink(Event::Finished { stream });
        }
    }

    fn resize_windows(&mut self, value: u32, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), SessionError> {
        let value = i64::from(value);
        let change = value - self.peer.initial;
        self.peer.streams = true;
        self.peer.initial = value;
        for open in self.streams.values_mut() {
            open.send_window += change;
        }
        let overflows = value > WIDEST || self.streams.values_mut().any(|open| open.send_window > WIDEST);
        if overflows {
            return Err(SessionError::WindowOverflow(0));
        }
        sink(Event::Widened);
        Ok(())
    }

    fn widen(
        &mut self,
        stream: u32,
        delta: u32,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        if stream == 0 {
            self.peer.session = true;
            self.peer.window += i64::from(delta);
            if self.peer.window > WIDEST {
                return Err(SessionError::WindowOverflow(0));
            }
        } else {
            self.peer.streams = true;
            let Some(open) = self.streams.get_mut(stream) else { return Ok(()) };
            open.send_window += i64::from(delta);
            if open.send_window > WIDEST {
                self.reset(stream, ResetStatus::FlowControlError);
                sink(Event::Reset { stream, status: ResetStatus::FlowControlError as u32 });
            }
        }
        sink(Event::Widened);
        Ok(())
    }
}
