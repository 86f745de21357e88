//! Who is connected, who subscribed to what, and where a message goes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rmqtt_codec::types::Publish;
use rmqtt_codec::types::QoS;
use tokio::sync::mpsc;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::Sender;

use super::registry::Rights;
use crate::pki::iot_policy;
use crate::pki::iot_policy::Context;
use crate::pki::iot_policy::Decision;
use crate::pki::iot_policy::Request;
use crate::pki::iot_policy::ThingContext;

/// Messages that wait for one client; one more is dropped.
const WAITING_MAX: usize = 64;
/// Subscriptions of one connection (AWS IoT's quota).
pub(super) const SUBSCRIPTIONS_MAX: usize = 50;
/// Octets of a topic or a filter (AWS IoT's quota).
const TOPIC_LENGTH_MAX: usize = 256;
/// Slashes in a topic or a filter (AWS IoT's quota).
const SLASHES_MAX: usize = 7;

/// A connected client and what it may do.
pub(super) struct Client {
    pub(super) id: String,
    pub(super) endpoint: String,
    pub(super) address: IpAddr,
    pub(super) rights: Rights,
}

impl Client {
    /// What its policies say.
    pub(super) fn decide(&self, request: &Request) -> Decision {
        let registered = &self.rights.registered;
        let context = Context {
            client_id: &self.id,
            domain_name: &self.endpoint,
            source_ip: self.address,
            subject: &self.rights.subject,
            certificate_id: &registered.certificate_id,
            thing: registered.thing_name.as_deref().map(|name| ThingContext {
                name,
                type_name: registered.thing_type.as_deref(),
                attributes: &registered.attributes,
            }),
        };
        iot_policy::decide(&self.rights.policies, request, &context)
    }
}

/// A message on its way to one client.
pub(super) struct Delivery {
    pub(super) message: Arc<Publish>,
    pub(super) qos: QoS,
    pub(super) subscription_ids: Vec<NonZeroU32>,
}

/// Where a message went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) delivered: usize,
    /// Client ids of subscribers whose policies do not allow `iot:Receive`, and why.
    pub(super) not_allowed: Vec<(String, String)>,
    /// Client ids of subscribers that read too slowly.
    pub(super) full: Vec<String>,
}

/// All sessions, by client id: one connection each.
#[derive(Default)]
pub(super) struct Broker(Mutex<Sessions>);

#[derive(Default)]
struct Sessions {
    by_client: HashMap<String, Session>,
    count: u64,
}

struct Session {
    number: u64,
    client: Arc<Client>,
    /// Dropped with the session: then the connection knows that another took its place.
    sender: Sender<Delivery>,
    subscriptions: Vec<Subscription>,
}

struct Subscription {
    filter: String,
    qos: QoS,
    no_local: bool,
    id: Option<NonZeroU32>,
}

/// A client's place among the sessions; given up when dropped.
pub(super) struct Seat<'a> {
    broker: &'a Broker,
    client_id: String,
    number: u64,
}

impl Broker {
    /// Seats a client; an older connection of that client id loses its seat: `true`.
    pub(super) fn join(&self, client: Arc<Client>) -> (Seat<'_>, Receiver<Delivery>, bool) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let mut sessions = self.lock();
        sessions.count += 1;
        let seat = Seat {
            broker: self,
            client_id: client.id.clone(),
            number: sessions.count,
        };
        let session = Session {
            number: seat.number,
            client,
            sender,
            subscriptions: Vec::new(),
        };
        let older = sessions.by_client.insert(seat.client_id.clone(), session);
        (seat, receiver, older.is_some())
    }

    /// Sends a message to everyone who subscribed to its topic and may receive it.
    pub(super) fn publish(&self, from: &str, message: &Arc<Publish>) -> Reach {
        let mut reach = Reach::default();
        for session in self.lock().by_client.values() {
            let own = session.client.id == from;
            let mut subscription_ids = Vec::new();
            let mut best = None;
            for subscription in &session.subscriptions {
                let skipped = own && subscription.no_local;
                if !skipped && matches(&subscription.filter, &message.topic) {
                    best = best.max(Some(subscription.qos));
                    subscription_ids.extend(subscription.id);
                }
            }
            let Some(qos) = best else {
                continue;
            };
            let decision = session.client.decide(&Request::Receive(&message.topic));
            if !decision.allowed {
                let refused = (session.client.id.clone(), decision.reason);
                reach.not_allowed.push(refused);
                continue;
            }
            let delivery = Delivery {
                message: Arc::clone(message),
                qos: qos.min(message.qos),
                subscription_ids,
            };
            match session.sender.try_send(delivery) {
                Ok(()) => reach.delivered += 1,
                Err(_) => reach.full.push(session.client.id.clone()),
            }
        }
        reach
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    /// Adds a subscription, or renews it; `false` when there are too many.
    pub(super) fn subscribe(
        &self,
        filter: &str,
        qos: QoS,
        no_local: bool,
        id: Option<NonZeroU32>,
    ) -> bool {
        let mut sessions = self.broker.lock();
        let Some(session) = self.session(&mut sessions) else {
            return true;
        };
        session.subscriptions.retain(|known| known.filter != filter);
        if session.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return false;
        }
        session.subscriptions.push(Subscription {
            filter: filter.to_owned(),
            qos,
            no_local,
            id,
        });
        true
    }

    /// Whether there was one.
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        let mut sessions = self.broker.lock();
        let Some(session) = self.session(&mut sessions) else {
            return false;
        };
        let before = session.subscriptions.len();
        session.subscriptions.retain(|known| known.filter != filter);
        session.subscriptions.len() < before
    }

    fn session<'s>(&self, sessions: &'s mut Sessions) -> Option<&'s mut Session> {
        let session = sessions.by_client.get_mut(&self.client_id)?;
        (session.number == self.number).then_some(session)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut sessions = self.broker.lock();
        if self.session(&mut sessions).is_some() {
            sessions.by_client.remove(&self.client_id);
        }
    }
}

/// Why AWS IoT refuses a topic to publish to.
pub(super) fn topic_fault(topic: &str) -> Option<String> {
    if topic.contains(['+', '#']) {
        return Some("a topic to publish to holds a wildcard".to_owned());
    }
    name_fault(topic)
}

/// Why AWS IoT refuses a topic filter.
pub(super) fn filter_fault(filter: &str) -> Option<String> {
    let levels: Vec<&str> = filter.split('/').collect();
    for (index, level) in levels.iter().enumerate() {
        let last = index + 1 == levels.len();
        if level.contains('#') && !(*level == "#" && last) || level.contains('+') && *level != "+" {
            return Some(format!("the wildcard in level {} stands wrong", index + 1));
        }
    }
    name_fault(filter)
}

fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("it is empty".to_owned());
    }
    if name.len() > TOPIC_LENGTH_MAX {
        return Some(format!(
            "{} octets; AWS IoT takes {TOPIC_LENGTH_MAX}",
            name.len()
        ));
    }
    if name.contains('\0') {
        return Some("it holds U+0000".to_owned());
    }
    // The first three levels of a reserved topic do not count.
    let counted = match name.strip_prefix("$aws/") {
        Some(_) => name.splitn(4, '/').nth(3).unwrap_or_default(),
        None => name,
    };
    let slashes = counted.matches('/').count();
    (slashes > SLASHES_MAX).then(|| format!("{slashes} slashes; AWS IoT takes {SLASHES_MAX}"))
}

/// MQTT 3.1.1 4.7, but as AWS IoT has it: `a/#` does not match `a`.
fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        let Some(level) = levels.next() else {
            return false;
        };
        match wanted {
            "#" => return true,
            "+" => {}
            _ if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_aws_iot_documents_them() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+/c", "a/b/c", true),
            ("+", "a", true),
            ("+", "a/b", false),
            ("#", "a/b/c", true),
            ("sensor/#", "sensor/", true),
            ("sensor/#", "sensor/temperature/room1", true),
            ("sensor/#", "sensor", false),
            ("#", "$aws/things/a", false),
            ("+/things/a", "$aws/things/a", false),
            ("$aws/#", "$aws/things/a", true),
            ("A/b", "a/b", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn topics_and_filters_have_their_form() {
        assert_eq!(filter_fault("a/+/#"), None);
        assert_eq!(topic_fault("1/2/3/4/5/6/7/8"), None);
        assert_eq!(topic_fault("$aws/things/x/1/2/3/4/5/6/7/8"), None);
        for wrong in ["", "a/#/b", "a+", "a#", "1/2/3/4/5/6/7/8/9", "a\0b"] {
            assert!(filter_fault(wrong).is_some(), "{wrong:?}");
        }
        for wrong in ["", "a/+", "#", &"a".repeat(257)] {
            assert!(topic_fault(wrong).is_some(), "{wrong:?}");
        }
    }
}
