//! What a connected device does: publish, subscribe, receive, until the connection ends.

use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rmqtt_codec::types::Publish;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v5::DisconnectReasonCode;
use rmqtt_codec::v5::PublishProperties;
use rmqtt_codec::v5::SubscribeAckReason;
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use tokio_openssl::SslStream;

use super::broker;
use super::broker::Client;
use super::broker::Delivery;
use super::broker::Reach;
use super::broker::Seat;
use super::connection::Visit;
use super::transcript::Outcome;
use super::transcript::Step;
use super::wire::Filter;
use super::wire::Received;
use super::wire::Sent;
use super::wire::Version;
use super::wire::Wire;
use super::wire::WireFault;
use crate::pki::iot_policy::Decision;
use crate::pki::iot_policy::Request;

/// Octets of a payload (AWS IoT's quota).
const PAYLOAD_LENGTH_MAX: usize = 128 * 1_024;
/// Filters in one SUBSCRIBE (AWS IoT's quota).
const FILTERS_MAX: usize = 8;
/// Packets of one connection in a second (AWS IoT's quota for publishes and for subscribes each).
const PACKETS_A_SECOND: u32 = 100;

/// Words of AWS IoT's lifecycle events and logs.
pub(super) const AUTHORIZATION_FAILURE: &str = "AUTHORIZATION_FAILURE";
pub(super) const CLIENT_ERROR: &str = "CLIENT_ERROR";

/// Why a connection ends.
pub(super) enum End {
    /// The client said so; `will`: and wants its last will published.
    Client {
        will: bool,
    },
    /// The device did what AWS IoT does not allow or understand.
    Refused(&'static str, DisconnectReasonCode, String),
    /// Another connection has the client id.
    TakenOver,
    KeepAlive,
    Lost(WireFault),
}

/// An accepted connection.
pub(super) struct Session<'a> {
    visit: &'a Visit<'a>,
    client: Arc<Client>,
    seat: Seat<'a>,
    version: Version,
    receive_max: usize,
    /// Deliveries the device has not acknowledged.
    in_flight: Vec<NonZeroU16>,
    packet_id: u16,
    /// Between two packets of the device.
    limit: Duration,
    pace: Pace,
}

/// Packets in the second that began then.
struct Pace {
    since: Instant,
    packets: u32,
    /// It was too fast before; said once.
    told: bool,
}

impl<'a> Session<'a> {
    /// `limit`: between two packets of the device.
    pub(super) fn new(
        visit: &'a Visit<'a>,
        client: Arc<Client>,
        seat: Seat<'a>,
        version: Version,
        receive_max: usize,
        limit: Duration,
    ) -> Self {
        Self {
            visit,
            client,
            seat,
            version,
            receive_max,
            in_flight: Vec::new(),
            packet_id: 0,
            limit,
            pace: Pace {
                since: Instant::now(),
                packets: 0,
                told: false,
            },
        }
    }

    /// Serves the device until the connection ends.
    pub(super) async fn run(
        &mut self,
        wire: &mut Wire<SslStream<TcpStream>>,
        mut deliveries: Receiver<Delivery>,
    ) -> End {
        let mut deadline = Instant::now() + self.limit;
        loop {
            let ended = tokio::select! {
                received = wire.read() => match received {
                    Ok(Some(packet)) => {
                        self.keep_pace().await;
                        deadline = Instant::now() + self.limit;
                        self.received(wire, packet).await
                    }
                    Ok(None) => {
                        let closed = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                        Err(End::Lost(closed.into()))
                    }
                    Err(fault) => Err(End::Lost(fault)),
                },
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.deliver(wire, delivery).await,
                    None => Err(End::TakenOver),
                },
                () = tokio::time::sleep_until(deadline) => Err(End::KeepAlive),
            };
            if let Err(end) = ended {
                return end;
            }
        }
    }

    /// Reads on in the next second when this one has had its packets: a device that floods fills
    /// no transcript and takes no processor from the others.
    async fn keep_pace(&mut self) {
        let next = self.pace.since + Duration::from_secs(1);
        let now = Instant::now();
        if now >= next {
            (self.pace.since, self.pace.packets) = (now, 0);
        }
        self.pace.packets += 1;
        if self.pace.packets <= PACKETS_A_SECOND {
            return;
        }
        if !self.pace.told {
            self.pace.told = true;
            self.tell(
                self.step("throttled", Outcome::Warning)
                    .aws("THROTTLED")
                    .detail(format!(
                        "more than {PACKETS_A_SECOND} packets in a second: read more slowly here, \
                         where AWS IoT would throttle"
                    )),
            );
        }
        tokio::time::sleep_until(next).await;
        (self.pace.since, self.pace.packets) = (Instant::now(), 1);
    }

    async fn received(
        &mut self,
        wire: &mut Wire<SslStream<TcpStream>>,
        packet: Received,
    ) -> Result<(), End> {
        match packet {
            Received::Publish(publish) => self.publish(wire, *publish).await,
            Received::PublishAck(packet_id) => {
                self.in_flight.retain(|waiting| *waiting != packet_id);
                Ok(())
            }
            Received::Subscribe {
                packet_id,
                id,
                filters,
            } => {
                if filters.len() > FILTERS_MAX {
                    return Err(client_error(format!(
                        "{} filters in one SUBSCRIBE; AWS IoT takes {FILTERS_MAX}",
                        filters.len()
                    )));
                }
                if filters.iter().any(|filter| filter.qos == QoS::ExactlyOnce) {
                    let detail = "a subscription with QoS 2, which AWS IoT does not support";
                    return Err(client_error(detail.to_owned()));
                }
                let granted = filters
                    .iter()
                    .map(|filter| self.subscribe(filter, id))
                    .collect();
                self.write(wire, Sent::SubscribeAck { packet_id, granted })
                    .await
            }
            Received::Unsubscribe { packet_id, filters } => {
                let found = filters
                    .iter()
                    .map(|filter| self.seat.unsubscribe(filter))
                    .collect();
                self.tell(
                    self.step("unsubscribed", Outcome::Ok)
                        .detail(filters.join(", "))
                        .with("topic_filters", &filters),
                );
                self.write(wire, Sent::UnsubscribeAck { packet_id, found })
                    .await
            }
            Received::Ping => self.write(wire, Sent::Pong).await,
            Received::Disconnect { will } => Err(End::Client { will }),
            Received::Connect(_) => Err(client_error(
                "a second CONNECT on one connection".to_owned(),
            )),
            Received::Unexpected(name) => {
                Err(client_error(format!("{name}, which AWS IoT does not take")))
            }
        }
    }

    async fn publish(
        &mut self,
        wire: &mut Wire<SslStream<TcpStream>>,
        publish: Publish,
    ) -> Result<(), End> {
        let topic = publish.topic.to_string();
        if let Some((reason, detail)) = publish_fault(&publish) {
            return Err(End::Refused(CLIENT_ERROR, reason, detail));
        }
        let mut decision = self.client.decide(&Request::Publish(&topic));
        if decision.allowed && publish.retain {
            decision = self.client.decide(&Request::RetainPublish(&topic));
        }
        if !decision.allowed {
            let step = self.step("publish-refused", Outcome::Refused);
            self.tell(refused(step, &decision, "").with("topic", &topic));
            if let (Version::V5, Some(packet_id)) = (self.version, publish.packet_id) {
                let allowed = false;
                self.write(wire, Sent::PublishAck { packet_id, allowed })
                    .await?;
            }
            return Err(End::Refused(
                AUTHORIZATION_FAILURE,
                DisconnectReasonCode::NotAuthorized,
                format!("it published to `{topic}`"),
            ));
        }
        let (packet_id, qos, retain) = (publish.packet_id, publish.qos, publish.retain);
        let length = publish.payload.len();
        let reach = self
            .visit
            .house
            .broker
            .publish(&self.client.id, &Arc::new(publish));
        let kept = if retain {
            "; retained messages are not kept here"
        } else {
            ""
        };
        self.tell(
            self.step("published", Outcome::Ok)
                .detail(format!(
                    "{length} octets on `{topic}`, QoS {}, to {} subscribers{kept}",
                    qos.value(),
                    reach.delivered
                ))
                .with("topic", &topic)
                .with("qos", qos.value())
                .with("payload_length", length)
                .with("delivered", reach.delivered),
        );
        self.tell_unreached(&topic, reach);
        match packet_id {
            Some(packet_id) => {
                let allowed = true;
                self.write(wire, Sent::PublishAck { packet_id, allowed })
                    .await
            }
            None => Ok(()),
        }
    }

    fn tell_unreached(&self, topic: &str, reach: Reach) {
        for (subscriber, why) in reach.not_allowed {
            self.tell(
                self.step("receive-refused", Outcome::Refused)
                    .aws(AUTHORIZATION_FAILURE)
                    .detail(format!("`{subscriber}` subscribed, and {why}"))
                    .with("topic", topic)
                    .with("subscriber", subscriber),
            );
        }
        for subscriber in reach.full {
            self.tell(
                self.step("message-dropped", Outcome::Warning)
                    .detail(format!("`{subscriber}` reads too slowly"))
                    .with("topic", topic)
                    .with("subscriber", subscriber),
            );
        }
    }

    /// Grants one filter, or says why not.
    fn subscribe(&self, asked: &Filter, id: Option<NonZeroU32>) -> Result<QoS, SubscribeAckReason> {
        let filter = &asked.text;
        let step = |outcome: Outcome| {
            let event = match outcome {
                Outcome::Ok => "subscribed",
                _ => "subscribe-refused",
            };
            self.step(event, outcome).with("topic_filter", filter)
        };
        if let Some(why) = broker::filter_fault(filter) {
            let detail = format!("the filter `{filter}`: {why}");
            self.tell(step(Outcome::Refused).aws(CLIENT_ERROR).detail(detail));
            return Err(SubscribeAckReason::TopicFilterInvalid);
        }
        if filter.starts_with("$share/") {
            let detail = "a shared subscription, which a rehearsal has not";
            self.tell(step(Outcome::Refused).detail(detail));
            return Err(SubscribeAckReason::SharedSubscriptionNotSupported);
        }
        let decision = self.client.decide(&Request::Subscribe(filter));
        if !decision.allowed {
            self.tell(refused(step(Outcome::Refused), &decision, ""));
            return Err(SubscribeAckReason::NotAuthorized);
        }
        if !self.seat.subscribe(filter, asked.qos, asked.no_local, id) {
            let detail = format!(
                "more than {} subscriptions on one connection",
                broker::SUBSCRIPTIONS_MAX
            );
            self.tell(step(Outcome::Refused).detail(detail));
            return Err(SubscribeAckReason::QuotaExceeded);
        }
        let detail = format!("`{filter}`, QoS {}", asked.qos.value());
        self.tell(
            step(Outcome::Ok)
                .detail(detail)
                .with("qos", asked.qos.value()),
        );
        Ok(asked.qos)
    }

    async fn deliver(
        &mut self,
        wire: &mut Wire<SslStream<TcpStream>>,
        delivery: Delivery,
    ) -> Result<(), End> {
        let message = delivery.message.as_ref();
        let dropped = |why: &str| {
            self.tell(
                self.step("message-dropped", Outcome::Warning)
                    .detail(why.to_owned())
                    .with("topic", message.topic.to_string()),
            );
        };
        let packet_id = match delivery.qos {
            QoS::AtMostOnce => None,
            _ if self.in_flight.len() >= self.receive_max => {
                dropped("the device has not acknowledged the deliveries before");
                return Ok(());
            }
            _ => self.next_packet_id(),
        };
        let properties = match self.version {
            Version::V3 => None,
            Version::V5 => Some(PublishProperties {
                topic_alias: None,
                subscription_ids: delivery.subscription_ids,
                ..message.properties.clone().unwrap_or_default()
            }),
        };
        let packet = Publish {
            dup: false,
            retain: false,
            qos: delivery.qos,
            topic: message.topic.clone(),
            packet_id,
            payload: message.payload.clone(),
            properties,
        };
        match wire.write(Sent::Publish(Box::new(packet))).await {
            // Longer than the device said it takes (MQTT 5, 3.1.2.11.4).
            Err(WireFault::Unwritable(error)) => {
                self.in_flight.retain(|waiting| Some(*waiting) != packet_id);
                self.tell(
                    self.step("message-dropped", Outcome::Warning)
                        .detail(error.to_string()),
                );
                Ok(())
            }
            written => written.map_err(End::Lost),
        }
    }

    /// The next that is not in flight; there is one, as `receive_max` is far below all.
    fn next_packet_id(&mut self) -> Option<NonZeroU16> {
        loop {
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            let candidate = NonZeroU16::new(self.packet_id)?;
            if !self.in_flight.contains(&candidate) {
                self.in_flight.push(candidate);
                return Some(candidate);
            }
        }
    }

    async fn write(&self, wire: &mut Wire<SslStream<TcpStream>>, packet: Sent) -> Result<(), End> {
        wire.write(packet).await.map_err(End::Lost)
    }

    fn step(&self, event: &'static str, outcome: Outcome) -> Step {
        self.visit.client_step(event, outcome, &self.client)
    }

    fn tell(&self, step: Step) {
        self.visit.tell(step);
    }
}

fn client_error(detail: String) -> End {
    End::Refused(CLIENT_ERROR, DisconnectReasonCode::ProtocolError, detail)
}

/// What no policy could allow.
fn publish_fault(publish: &Publish) -> Option<(DisconnectReasonCode, String)> {
    let topic = &publish.topic;
    let alias = publish.properties.as_ref().and_then(|p| p.topic_alias);
    if alias.is_some() {
        let detail = "a topic alias, of which a rehearsal allows none".to_owned();
        return Some((DisconnectReasonCode::TopicAliasInvalid, detail));
    }
    if publish.qos == QoS::ExactlyOnce {
        let detail = format!("QoS 2 on `{topic}`, which AWS IoT does not support");
        return Some((DisconnectReasonCode::QosNotSupported, detail));
    }
    if publish.payload.len() > PAYLOAD_LENGTH_MAX {
        let detail = format!(
            "{} octets of payload on `{topic}`; AWS IoT takes {PAYLOAD_LENGTH_MAX}",
            publish.payload.len()
        );
        return Some((DisconnectReasonCode::PacketTooLarge, detail));
    }
    let why = broker::topic_fault(topic)?;
    let detail = format!("the topic `{topic}`: {why}");
    Some((DisconnectReasonCode::TopicNameInvalid, detail))
}

/// A step that a policy's decision refuses.
pub(super) fn refused(step: Step, decision: &Decision, what: &str) -> Step {
    let mut detail = format!("{what}{}", decision.reason);
    for note in &decision.notes {
        detail.push_str("; ");
        detail.push_str(note);
    }
    step.aws(AUTHORIZATION_FAILURE)
        .detail(detail)
        .with("notes", &decision.notes)
}
