//! MQTT 3.1.1 and 5 on one stream: packets in, packets out, in one shape for both versions.

use std::num::NonZeroU16;
use std::num::NonZeroU32;

use bytes::BytesMut;
use rmqtt_codec::MqttCodec;
use rmqtt_codec::MqttPacket;
use rmqtt_codec::types::Publish;
use rmqtt_codec::types::QoS;
use rmqtt_codec::v3;
use rmqtt_codec::v5;
use rmqtt_codec::version::ProtocolVersion;
use rmqtt_codec::version::VersionCodec;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio_util::codec::Decoder;
use tokio_util::codec::Encoder;

use super::WRITE_TIMEOUT;

/// Octets of a packet, as AWS IoT announces it in its CONNACK; a payload has its own limit.
pub(super) const PACKET_SIZE_MAX: u32 = 149_504;
/// Deliveries that a client has not acknowledged yet, as AWS IoT's quota has it.
pub(super) const IN_FLIGHT_MAX: u16 = 100;
/// MQTT 3.1.1; 3.1 is not spoken by AWS IoT.
const LEVEL_3_1_1: u8 = 4;

/// Which MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V3,
    V5,
}

/// What a client says.
#[derive(Debug)]
pub(super) enum Received {
    Connect(Box<Connect>),
    Publish(Box<Publish>),
    PublishAck(NonZeroU16),
    Subscribe {
        packet_id: NonZeroU16,
        id: Option<NonZeroU32>,
        filters: Vec<Filter>,
    },
    Unsubscribe {
        packet_id: NonZeroU16,
        filters: Vec<String>,
    },
    Ping,
    /// `will`: it wants its last will published.
    Disconnect {
        will: bool,
    },
    /// A packet that no client of AWS IoT may send: its name.
    Unexpected(&'static str),
}

/// The CONNECT packet.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) clean: bool,
    /// Seconds; 0 for none.
    pub(super) keep_alive: u16,
    pub(super) will: Option<Publish>,
    /// Deliveries it takes unacknowledged.
    pub(super) receive_max: u16,
}

/// One filter of a SUBSCRIBE packet.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) text: String,
    pub(super) qos: QoS,
    pub(super) no_local: bool,
}

/// What the endpoint says.
#[derive(Debug)]
pub(super) enum Sent {
    Accepted {
        keep_alive: u16,
        assigned_client_id: Option<String>,
    },
    /// In MQTT 5 only; in 3.1.1 the connection just closes.
    NotAuthorized,
    Publish(Box<Publish>),
    PublishAck {
        packet_id: NonZeroU16,
        allowed: bool,
    },
    SubscribeAck {
        packet_id: NonZeroU16,
        granted: Vec<Result<QoS, v5::SubscribeAckReason>>,
    },
    UnsubscribeAck {
        packet_id: NonZeroU16,
        found: Vec<bool>,
    },
    Pong,
    /// In MQTT 5 only.
    Disconnect(v5::DisconnectReasonCode),
}

/// Why there is no next packet.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireFault {
    #[error("the connection was lost: {0}")]
    Lost(#[from] std::io::Error),
    #[error("no MQTT: {0}")]
    Malformed(#[from] rmqtt_codec::error::DecodeError),
    #[error("a packet cannot be written: {0}")]
    Unwritable(#[from] rmqtt_codec::error::EncodeError),
    #[error("MQTT 3.1; AWS IoT speaks 3.1.1 and 5")]
    OldVersion,
    #[error("the client took no packet for {WRITE_TIMEOUT:?}")]
    Slow,
}

/// A stream that carries MQTT.
pub(super) struct Wire<S> {
    stream: S,
    codec: MqttCodec,
    incoming: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            codec: MqttCodec::Version(VersionCodec),
            incoming: BytesMut::with_capacity(1_024),
        }
    }

    /// Known once the first packet was read.
    pub(super) fn version(&self) -> Option<Version> {
        match self.codec {
            MqttCodec::V3(_) => Some(Version::V3),
            MqttCodec::V5(_) => Some(Version::V5),
            MqttCodec::Version(_) => None,
        }
    }

    /// The next packet; `None` when the client closed between two. May be dropped while it waits.
    pub(super) async fn read(&mut self) -> Result<Option<Received>, WireFault> {
        loop {
            match self.codec.decode(&mut self.incoming)? {
                Some((MqttPacket::Version(version), _)) => {
                    self.codec = match version {
                        ProtocolVersion::MQTT3 => MqttCodec::V3(v3::Codec::new(PACKET_SIZE_MAX)),
                        ProtocolVersion::MQTT5 => {
                            MqttCodec::V5(v5::Codec::new(PACKET_SIZE_MAX, PACKET_SIZE_MAX))
                        }
                    };
                }
                Some((MqttPacket::V3(packet), _)) => return received_v3(packet).map(Some),
                Some((MqttPacket::V5(packet), _)) => {
                    if let (MqttCodec::V5(codec), v5::Packet::Connect(connect)) =
                        (&mut self.codec, &packet)
                        && let Some(max) = connect.max_packet_size
                    {
                        codec.set_max_outbound_size(max.get().min(PACKET_SIZE_MAX));
                    }
                    return Ok(Some(received_v5(packet)));
                }
                None => {
                    if self.stream.read_buf(&mut self.incoming).await? == 0 {
                        return if self.incoming.is_empty() {
                            Ok(None)
                        } else {
                            Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
                        };
                    }
                }
            }
        }
    }

    /// Writes one packet, if this version of MQTT has it.
    pub(super) async fn write(&mut self, packet: Sent) -> Result<(), WireFault> {
        let packet = match self.codec {
            MqttCodec::V3(_) => sent_v3(packet).map(MqttPacket::V3),
            MqttCodec::V5(_) => sent_v5(packet).map(MqttPacket::V5),
            MqttCodec::Version(_) => None,
        };
        let Some(packet) = packet else {
            return Ok(());
        };
        let mut outgoing = BytesMut::new();
        self.codec.encode(packet, &mut outgoing)?;
        let write = async {
            self.stream.write_all(&outgoing).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(WireFault::Slow),
        }
    }

    /// Ends the stream; does not wait long for a client that reads nothing.
    pub(super) async fn close(mut self) {
        let shutdown = self.stream.shutdown();
        tokio::time::timeout(std::time::Duration::from_secs(1), shutdown)
            .await
            .ok();
    }
}

fn received_v3(packet: v3::Packet) -> Result<Received, WireFault> {
    use v3::Packet;
    Ok(match packet {
        Packet::Connect(connect) => {
            if connect.protocol.level() != LEVEL_3_1_1 {
                return Err(WireFault::OldVersion);
            }
            let will = |will: v3::LastWill| Publish {
                dup: false,
                retain: will.retain,
                qos: will.qos,
                topic: will.topic,
                packet_id: None,
                payload: will.message,
                properties: None,
            };
            Received::Connect(Box::new(Connect {
                client_id: connect.client_id.to_string(),
                clean: connect.clean_session,
                keep_alive: connect.keep_alive,
                will: connect.last_will.map(will),
                receive_max: IN_FLIGHT_MAX,
            }))
        }
        Packet::Publish(publish) => Received::Publish(publish),
        Packet::PublishAck { packet_id } => Received::PublishAck(packet_id),
        Packet::Subscribe {
            packet_id,
            topic_filters,
        } => {
            let filters = topic_filters.iter().map(|(filter, qos)| Filter {
                text: filter.to_string(),
                qos: *qos,
                no_local: false,
            });
            Received::Subscribe {
                packet_id,
                id: None,
                filters: filters.collect(),
            }
        }
        Packet::Unsubscribe {
            packet_id,
            topic_filters,
        } => Received::Unsubscribe {
            packet_id,
            filters: topic_filters.iter().map(ToString::to_string).collect(),
        },
        Packet::PingRequest => Received::Ping,
        Packet::Disconnect => Received::Disconnect { will: false },
        Packet::PublishReceived { .. } => Received::Unexpected("PUBREC"),
        Packet::PublishRelease { .. } => Received::Unexpected("PUBREL"),
        Packet::PublishComplete { .. } => Received::Unexpected("PUBCOMP"),
        Packet::ConnectAck(_)
        | Packet::SubscribeAck { .. }
        | Packet::UnsubscribeAck { .. }
        | Packet::PingResponse => Received::Unexpected("a server's packet"),
    })
}

fn received_v5(packet: v5::Packet) -> Received {
    use v5::Packet;
    match packet {
        Packet::Connect(connect) => {
            let will = |will: v5::LastWill| Publish {
                dup: false,
                retain: will.retain,
                qos: will.qos,
                topic: will.topic,
                packet_id: None,
                payload: will.message,
                properties: Some(v5::PublishProperties {
                    correlation_data: will.correlation_data,
                    message_expiry_interval: will.message_expiry_interval,
                    content_type: will.content_type,
                    user_properties: will.user_properties,
                    is_utf8_payload: will.is_utf8_payload.unwrap_or_default(),
                    response_topic: will.response_topic,
                    ..v5::PublishProperties::default()
                }),
            };
            Received::Connect(Box::new(Connect {
                client_id: connect.client_id.to_string(),
                clean: connect.clean_start && connect.session_expiry_interval_secs == 0,
                keep_alive: connect.keep_alive,
                will: connect.last_will.map(will),
                receive_max: connect
                    .receive_max
                    .map_or(IN_FLIGHT_MAX, |max| max.get().min(IN_FLIGHT_MAX)),
            }))
        }
        Packet::Publish(publish) => Received::Publish(publish),
        Packet::PublishAck(ack) => Received::PublishAck(ack.packet_id),
        Packet::Subscribe(subscribe) => Received::Subscribe {
            packet_id: subscribe.packet_id,
            id: subscribe.id,
            filters: subscribe
                .topic_filters
                .into_iter()
                .map(|(filter, options)| Filter {
                    text: filter.to_string(),
                    qos: options.qos,
                    no_local: options.no_local,
                })
                .collect(),
        },
        Packet::Unsubscribe(unsubscribe) => Received::Unsubscribe {
            packet_id: unsubscribe.packet_id,
            filters: unsubscribe
                .topic_filters
                .iter()
                .map(ToString::to_string)
                .collect(),
        },
        Packet::PingRequest => Received::Ping,
        Packet::Disconnect(disconnect) => Received::Disconnect {
            will: disconnect.reason_code != v5::DisconnectReasonCode::NormalDisconnection,
        },
        Packet::PublishReceived(_) => Received::Unexpected("PUBREC"),
        Packet::PublishRelease(_) => Received::Unexpected("PUBREL"),
        Packet::PublishComplete(_) => Received::Unexpected("PUBCOMP"),
        Packet::Auth(_) => Received::Unexpected("AUTH"),
        Packet::ConnectAck(_)
        | Packet::SubscribeAck(_)
        | Packet::UnsubscribeAck(_)
        | Packet::PingResponse => Received::Unexpected("a server's packet"),
    }
}

fn sent_v3(packet: Sent) -> Option<v3::Packet> {
    use v3::Packet;
    Some(match packet {
        Sent::Accepted { .. } => Packet::ConnectAck(v3::ConnectAck {
            return_code: v3::ConnectAckReason::ConnectionAccepted,
            session_present: false,
        }),
        Sent::Publish(publish) => Packet::Publish(publish),
        Sent::PublishAck {
            packet_id,
            allowed: true,
        } => Packet::PublishAck { packet_id },
        Sent::SubscribeAck { packet_id, granted } => {
            let code = |granted: Result<QoS, _>| match granted {
                Ok(qos) => v3::SubscribeReturnCode::Success(qos),
                Err(_) => v3::SubscribeReturnCode::Failure,
            };
            Packet::SubscribeAck {
                packet_id,
                status: granted.into_iter().map(code).collect(),
            }
        }
        Sent::UnsubscribeAck { packet_id, .. } => Packet::UnsubscribeAck { packet_id },
        Sent::Pong => Packet::PingResponse,
        Sent::NotAuthorized | Sent::PublishAck { .. } | Sent::Disconnect(_) => return None,
    })
}

fn sent_v5(packet: Sent) -> Option<v5::Packet> {
    use v5::Packet;
    Some(match packet {
        Sent::Accepted {
            keep_alive,
            assigned_client_id,
        } => Packet::from(v5::ConnectAck {
            session_expiry_interval_secs: Some(0),
            receive_max: NonZeroU16::new(IN_FLIGHT_MAX)?,
            max_qos: QoS::AtLeastOnce,
            max_packet_size: Some(PACKET_SIZE_MAX),
            assigned_client_id: assigned_client_id.map(Into::into),
            topic_alias_max: 0,
            retain_available: true,
            shared_subscription_available: false,
            server_keepalive_sec: Some(keep_alive),
            ..v5::ConnectAck::default()
        }),
        Sent::NotAuthorized => Packet::from(v5::ConnectAck {
            reason_code: v5::ConnectAckReason::NotAuthorized,
            ..v5::ConnectAck::default()
        }),
        Sent::Publish(publish) => Packet::Publish(publish),
        Sent::PublishAck { packet_id, allowed } => Packet::PublishAck(v5::PublishAck {
            packet_id,
            reason_code: if allowed {
                v5::PublishAckReason::Success
            } else {
                v5::PublishAckReason::NotAuthorized
            },
            properties: Vec::new(),
            reason_string: None,
        }),
        Sent::SubscribeAck { packet_id, granted } => {
            let code = |granted| match granted {
                Ok(QoS::AtMostOnce) => v5::SubscribeAckReason::GrantedQos0,
                Ok(_) => v5::SubscribeAckReason::GrantedQos1,
                Err(reason) => reason,
            };
            Packet::SubscribeAck(v5::SubscribeAck {
                packet_id,
                properties: Vec::new(),
                reason_string: None,
                status: granted.into_iter().map(code).collect(),
            })
        }
        Sent::UnsubscribeAck { packet_id, found } => {
            let code = |found| {
                if found {
                    v5::UnsubscribeAckReason::Success
                } else {
                    v5::UnsubscribeAckReason::NoSubscriptionExisted
                }
            };
            Packet::UnsubscribeAck(v5::UnsubscribeAck {
                packet_id,
                properties: Vec::new(),
                reason_string: None,
                status: found.into_iter().map(code).collect(),
            })
        }
        Sent::Pong => Packet::PingResponse,
        Sent::Disconnect(reason) => Packet::Disconnect(v5::Disconnect::new(reason)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONNECT_3: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a";
    const CONNECT_5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01a";

    /// Everything a client says, until the wire ends; how it ends.
    fn all(octets: &[u8]) -> (Vec<Received>, Option<WireFault>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(octets.len() + 1);
            client.write_all(octets).await.unwrap();
            drop(client);
            let mut wire = Wire::new(server);
            let mut packets = Vec::new();
            loop {
                match wire.read().await {
                    Ok(Some(packet)) => packets.push(packet),
                    Ok(None) => return (packets, None),
                    Err(fault) => return (packets, Some(fault)),
                }
            }
        })
    }

    /// What the endpoint writes after a CONNECT.
    fn written(connect: &[u8], packet: Sent) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(65_536);
            client.write_all(connect).await.unwrap();
            let mut wire = Wire::new(server);
            wire.read().await.unwrap();
            wire.write(packet).await.unwrap();
            wire.close().await;
            let mut octets = Vec::new();
            client.read_to_end(&mut octets).await.unwrap();
            octets
        })
    }

    #[test]
    fn both_versions_are_read() {
        for connect in [CONNECT_3, CONNECT_5] {
            let ping = [connect, b"\xc0\0"].concat();
            let (packets, fault) = all(&ping);
            assert!(fault.is_none(), "{fault:?}");
            assert!(
                matches!(&packets[..], [Received::Connect(c), Received::Ping]
                    if c.client_id == "a" && c.keep_alive == 60 && c.clean),
                "{packets:?}"
            );
            // Cut anywhere, it is a lost connection and nothing else.
            for length in 1..connect.len() {
                let (packets, fault) = all(&connect[..length]);
                assert!(packets.is_empty() && matches!(fault, Some(WireFault::Lost(_))));
            }
        }
    }

    #[test]
    fn a_refusal_has_a_word_in_mqtt_5_only() {
        assert_eq!(written(CONNECT_3, Sent::NotAuthorized), b"");
        let refused = written(CONNECT_5, Sent::NotAuthorized);
        assert_eq!(&refused[..4], b"\x20\x03\0\x87");
        let reason = v5::DisconnectReasonCode::NotAuthorized;
        assert_eq!(written(CONNECT_3, Sent::Disconnect(reason)), b"");
        assert_eq!(&written(CONNECT_5, Sent::Disconnect(reason))[..1], b"\xe0");
        let accepted = |assigned: Option<&str>| Sent::Accepted {
            keep_alive: 60,
            assigned_client_id: assigned.map(str::to_owned),
        };
        assert_eq!(written(CONNECT_3, accepted(None)), b"\x20\x02\0\0");
        let assigned = written(CONNECT_5, accepted(Some("$GEN/1")));
        assert!(assigned.windows(6).any(|octets| octets == b"$GEN/1"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_octets_are_a_panic(
            version in 0_usize..3,
            kind in any::<u8>(),
            body in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut octets = [&[][..], CONNECT_3, CONNECT_5][version].to_vec();
            octets.push(kind);
            octets.push(u8::try_from(body.len()).unwrap());
            octets.extend(&body);
            let _ = all(&octets);
        }

        #[test]
        fn a_connect_with_any_bit_turned_is_no_panic(version in 0_usize..2, bit in 0_usize..128) {
            let mut octets = [CONNECT_3, CONNECT_5][version].to_vec();
            if let Some(octet) = octets.get_mut(bit / 8) {
                *octet ^= 1 << (bit % 8);
            }
            let _ = all(&octets);
        }
    }
}
