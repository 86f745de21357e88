//! One connection: handshake, CONNECT, and what the device does after it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openssl::x509::X509;
use rmqtt_codec::types::Publish;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v5::DisconnectReasonCode;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_openssl::SslStream;

use super::HANDSHAKE_TIMEOUT;
use super::House;
use super::broker;
use super::broker::Client;
use super::door::Waiting;
use super::handshake;
use super::handshake::Guest;
use super::registry::Meeting;
use super::registry::ProvisioningFault;
use super::registry::Registered;
use super::registry::Rights;
use super::registry::Status;
use super::session::AUTHORIZATION_FAILURE;
use super::session::CLIENT_ERROR;
use super::session::End;
use super::session::Session;
use super::session::refused;
use super::transcript::Outcome;
use super::transcript::Step;
use super::wire::Connect;
use super::wire::Received;
use super::wire::Sent;
use super::wire::Version;
use super::wire::Wire;
use super::wire::WireFault;
use crate::pki::hex;
use crate::pki::iot_policy::ConnectAttribute;
use crate::pki::iot_policy::Request;

/// Octets of a client id (AWS IoT's quota).
const CLIENT_ID_LENGTH_MAX: usize = 128;
/// Seconds (AWS IoT's quotas); a client that names none gets the most.
const KEEP_ALIVE: std::ops::RangeInclusive<u16> = 30..=1_200;

/// One connection's view of the house.
pub(super) struct Visit<'a> {
    pub(super) house: &'a Arc<House>,
    pub(super) peer: SocketAddr,
    /// Counts connections from 1.
    pub(super) number: u64,
}

impl Visit<'_> {
    /// Serves the connection to its end, or until the house closes.
    pub(super) async fn serve(
        &self,
        stream: TcpStream,
        waiting: Waiting,
        mut stopped: watch::Receiver<bool>,
    ) {
        tokio::select! {
            () = self.all(stream, waiting) => {}
            _ = stopped.changed() => self.tell(
                self.step("disconnected", Outcome::Ok)
                    .aws("SERVER_INITIATED_DISCONNECT")
                    .detail("the rehearsal ends"),
            ),
        }
    }

    async fn all(&self, stream: TcpStream, waiting: Waiting) {
        let guest = match handshake::accept(self.house, stream, HANDSHAKE_TIMEOUT).await {
            Ok(guest) => guest,
            Err(refusal) => {
                let mut step = self
                    .step("tls-refused", Outcome::Refused)
                    .detail(refusal.detail)
                    .with("sni", refusal.sni);
                if let Some(certificate) = &refusal.certificate {
                    step = described(step, certificate);
                }
                self.tell(step);
                return;
            }
        };
        let Guest {
            stream,
            certificate: der,
            issuer,
        } = guest;
        let mut step = self.step("tls-accepted", Outcome::Ok).detail(format!(
            "{}, certificate {} of `{issuer}`",
            stream.ssl().version_str(),
            hex(&openssl::sha::sha256(&der))
        ));
        if let Ok(certificate) = X509::from_der(&der) {
            step = described(step, &certificate);
        }
        self.tell(
            step.with("sni", &self.house.endpoint)
                .with("issuer", issuer)
                .with("tls", stream.ssl().version_str()),
        );
        self.mqtt(Wire::new(stream), &der, waiting).await;
    }

    /// From the CONNECT packet on.
    async fn mqtt(&self, mut wire: Wire<SslStream<TcpStream>>, der: &[u8], waiting: Waiting) {
        let certificate_id = hex(&openssl::sha::sha256(der));
        let first = match tokio::time::timeout(HANDSHAKE_TIMEOUT, wire.read()).await {
            Ok(Ok(Some(Received::Connect(connect)))) => Ok(connect),
            Ok(Ok(Some(_))) => Err("the first packet is no CONNECT".to_owned()),
            Ok(Ok(None)) => Err("closed before a CONNECT".to_owned()),
            Ok(Err(fault)) => Err(fault.to_string()),
            Err(_) => Err(format!("no CONNECT within {HANDSHAKE_TIMEOUT:?}")),
        };
        let connect = match first {
            Ok(connect) => connect,
            Err(why) => {
                let step = self.step("protocol-error", Outcome::Refused);
                self.tell(
                    step.aws(CLIENT_ERROR)
                        .detail(why)
                        .with("certificate_id", certificate_id),
                );
                wire.close().await;
                return;
            }
        };
        match self.house.registry.meet(der) {
            Meeting::Provisioned {
                registered,
                collision,
            } => self.tell_provisioned(&connect, &registered, collision),
            Meeting::Failed(faults) => self.tell_failed(&connect, &certificate_id, &faults),
            Meeting::Known(rights) => {
                self.connected(&mut wire, *connect, *rights, waiting).await;
            }
        }
        wire.close().await;
    }

    fn tell_provisioned(&self, connect: &Connect, made: &Registered, collision: Option<String>) {
        let thing = made.thing_name.as_deref().unwrap_or("(none)");
        self.tell(
            self.step("provisioned", Outcome::Ok)
                .detail(format!(
                    "first CONNECT of this certificate (client id `{}`): dropped without CONNACK \
                     while the template makes thing `{thing}`, type {}, groups {:?}, attributes \
                     {:?}, policies {:?}, certificate {}",
                    connect.client_id,
                    made.thing_type.as_deref().unwrap_or("none"),
                    made.groups,
                    made.attributes,
                    made.policies(),
                    made.status
                ))
                .with("client_id", &connect.client_id)
                .with("certificate_id", &made.certificate_id)
                .with("thing_name", &made.thing_name)
                .with("thing_type", &made.thing_type)
                .with("groups", &made.groups)
                .with("attributes", &made.attributes)
                .with("billing_group", &made.billing_group)
                .with("policies", made.policies())
                .with("certificate_status", made.status),
        );
        if let Some(other) = collision {
            self.tell(
                self.step("thing-name-collision", Outcome::Warning)
                    .detail(format!(
                        "thing `{thing}` exists already, made for certificate {other}: AWS IoT \
                         would attach this certificate to the same thing, or end with \
                         ResourceConflictsException where the template's values differ"
                    ))
                    .with("thing_name", &made.thing_name)
                    .with("certificate_id", &made.certificate_id)
                    .with("other_certificate_id", other),
            );
        }
    }

    fn tell_failed(&self, connect: &Connect, certificate_id: &str, faults: &[ProvisioningFault]) {
        let details: Vec<&str> = faults.iter().map(|fault| fault.detail.as_str()).collect();
        let mut step = self
            .step("provisioning-failed", Outcome::Refused)
            .detail(format!(
                "the certificate stays PENDING_ACTIVATION and no thing is made: {}",
                details.join("; ")
            ))
            .with("client_id", &connect.client_id)
            .with("certificate_id", certificate_id)
            .with("certificate_status", Status::PendingActivation)
            .with("violations", faults);
        if let Some(reason) = faults.iter().find_map(|fault| fault.aws_reason.clone()) {
            step = step.aws(reason);
        }
        self.tell(step);
    }

    /// A known certificate's CONNECT.
    async fn connected(
        &self,
        wire: &mut Wire<SslStream<TcpStream>>,
        connect: Connect,
        rights: Rights,
        waiting: Waiting,
    ) {
        let assigned = connect
            .client_id
            .is_empty()
            .then(|| format!("$GEN/{}-{}", self.number, self.peer.port()));
        let client = Arc::new(Client {
            id: assigned
                .clone()
                .unwrap_or_else(|| connect.client_id.clone()),
            endpoint: self.house.endpoint.clone(),
            address: self.peer.ip(),
            rights,
        });
        if let Err((reason, detail, notes)) = may_connect(&client, &connect) {
            self.tell(
                self.client_step("connect-refused", Outcome::Refused, &client)
                    .aws(reason)
                    .detail(detail)
                    .with("notes", notes),
            );
            wire.write(Sent::NotAuthorized).await.ok();
            return;
        }
        drop(waiting);
        let keep_alive = match connect.keep_alive {
            0 => *KEEP_ALIVE.end(),
            seconds => seconds.clamp(*KEEP_ALIVE.start(), *KEEP_ALIVE.end()),
        };
        let (seat, deliveries, took_over) = self.house.broker.join(Arc::clone(&client));
        if took_over {
            self.tell(
                self.client_step("client-id-taken-over", Outcome::Warning, &client)
                    .detail("an older connection has the same client id: AWS IoT closes it"),
            );
        }
        let accepted = Sent::Accepted {
            keep_alive,
            assigned_client_id: assigned,
        };
        if let Err(fault) = wire.write(accepted).await {
            self.tell_end(&client, &End::Lost(fault));
            return;
        }
        let thing = client.rights.registered.thing_name.as_deref();
        self.tell(
            self.client_step("connected", Outcome::Ok, &client)
                .detail(format!(
                    "client id `{}` as thing `{}`, keep-alive {keep_alive} s",
                    client.id,
                    thing.unwrap_or("(none)")
                ))
                .with(
                    "mqtt",
                    if wire.version() == Some(Version::V5) {
                        "5"
                    } else {
                        "3.1.1"
                    },
                )
                .with("keep_alive_seconds", keep_alive),
        );
        if !connect.clean {
            self.tell(
                self.client_step("session-not-kept", Outcome::Warning, &client)
                    .detail("the device asks for a persistent session, which a rehearsal has not"),
            );
        }
        let mut session = Session::new(
            self,
            Arc::clone(&client),
            seat,
            wire.version().unwrap_or(Version::V3),
            usize::from(connect.receive_max),
            Duration::from_secs(u64::from(keep_alive)) * 3 / 2,
        );
        let end = session.run(wire, deliveries).await;
        self.tell_end(&client, &end);
        if let End::Refused(_, reason, _) = &end {
            wire.write(Sent::Disconnect(*reason)).await.ok();
        } else if matches!(end, End::TakenOver) {
            let reason = DisconnectReasonCode::SessionTakenOver;
            wire.write(Sent::Disconnect(reason)).await.ok();
        }
        if let Some(will) = connect.will
            && !matches!(end, End::Client { will: false })
        {
            self.last_will(&client, will);
        }
    }

    fn last_will(&self, client: &Client, will: Publish) {
        let decision = client.decide(&Request::Publish(&will.topic));
        if !decision.allowed || broker::topic_fault(&will.topic).is_some() {
            self.tell(refused(
                self.client_step("publish-refused", Outcome::Refused, client),
                &decision,
                "the last will: ",
            ));
            return;
        }
        let topic = will.topic.to_string();
        let will = Publish {
            qos: will.qos.min(QoS::AtLeastOnce),
            retain: false,
            ..will
        };
        let reach = self.house.broker.publish(&client.id, &Arc::new(will));
        self.tell(
            self.client_step("will-published", Outcome::Ok, client)
                .detail(format!("`{topic}` to {} subscribers", reach.delivered))
                .with("topic", topic),
        );
    }

    fn tell_end(&self, client: &Client, end: &End) {
        let step = |outcome| self.client_step("disconnected", outcome, client);
        self.tell(match end {
            End::Client { .. } => step(Outcome::Ok)
                .aws("CLIENT_INITIATED_DISCONNECT")
                .detail("the device said goodbye"),
            End::Refused(reason, _, why) => step(Outcome::Refused).aws(*reason).detail(why.clone()),
            End::TakenOver => step(Outcome::Warning)
                .aws("DUPLICATE_CLIENTID")
                .detail("another connection has the client id now"),
            End::KeepAlive => step(Outcome::Refused)
                .aws("MQTT_KEEP_ALIVE_TIMEOUT")
                .detail("nothing came for one and a half times the keep-alive time"),
            End::Lost(fault @ WireFault::Malformed(_)) => step(Outcome::Refused)
                .aws(CLIENT_ERROR)
                .detail(fault.to_string()),
            End::Lost(fault) => step(Outcome::Warning)
                .aws("CONNECTION_LOST")
                .detail(fault.to_string()),
        });
    }

    fn step(&self, event: &'static str, outcome: Outcome) -> Step {
        Step::new(event, outcome).at(self.number, self.peer)
    }

    pub(super) fn client_step(
        &self,
        event: &'static str,
        outcome: Outcome,
        client: &Client,
    ) -> Step {
        let registered = &client.rights.registered;
        self.step(event, outcome)
            .with("client_id", &client.id)
            .with("certificate_id", &registered.certificate_id)
            .with("thing_name", &registered.thing_name)
    }

    pub(super) fn tell(&self, step: Step) {
        self.house.tell(step);
    }
}

/// Certificate id, subject and issuer of a certificate.
fn described(step: Step, certificate: &X509) -> Step {
    let name = |name: &openssl::x509::X509NameRef| -> Vec<String> {
        name.entries()
            .map(|entry| {
                let kind = entry.object().nid().short_name().unwrap_or("?").to_owned();
                let value = entry.data().to_string();
                format!("{kind}={}", value.unwrap_or_default())
            })
            .collect()
    };
    let id = certificate
        .to_der()
        .map(|der| hex(&openssl::sha::sha256(&der)));
    step.with("certificate_id", id.ok())
        .with("subject", name(certificate.subject_name()).join(", "))
        .with("issuer_subject", name(certificate.issuer_name()).join(", "))
}

/// Or AWS's reason, ours, and the policies' notes.
fn may_connect(
    client: &Client,
    connect: &Connect,
) -> Result<(), (&'static str, String, Vec<String>)> {
    let status = &client.rights.registered.status;
    if *status != Status::Active {
        let detail = format!("the certificate is {status}: somebody must activate it first");
        return Err((AUTHORIZATION_FAILURE, detail, Vec::new()));
    }
    if client.id.len() > CLIENT_ID_LENGTH_MAX {
        let detail = format!(
            "the client id has {} octets; AWS IoT takes {CLIENT_ID_LENGTH_MAX}",
            client.id.len()
        );
        return Err((CLIENT_ERROR, detail, Vec::new()));
    }
    if connect.client_id.starts_with('$') {
        let detail = "client ids that begin with $ are reserved by AWS IoT".to_owned();
        return Err((CLIENT_ERROR, detail, Vec::new()));
    }
    if connect
        .will
        .as_ref()
        .is_some_and(|will| will.qos == QoS::ExactlyOnce)
    {
        let detail = "the last will has QoS 2, which AWS IoT does not support".to_owned();
        return Err((CLIENT_ERROR, detail, Vec::new()));
    }
    let mut attributes = Vec::new();
    if !connect.clean {
        attributes.push(ConnectAttribute::PersistentConnect);
    }
    if connect.will.is_some() {
        attributes.push(ConnectAttribute::LastWill);
    }
    let request = Request::Connect {
        attributes: &attributes,
    };
    let decision = client.decide(&request);
    if decision.allowed {
        return Ok(());
    }
    let mut detail = decision.reason;
    for note in &decision.notes {
        detail.push_str("; ");
        detail.push_str(note);
    }
    Err((AUTHORIZATION_FAILURE, detail, decision.notes))
}
