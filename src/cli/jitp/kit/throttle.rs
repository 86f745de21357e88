//! How many devices an hour an account takes in, by AWS's default quotas.

use serde_json::Value;
use serde_json::json;

use super::needs::Needs;

/// One of AWS IoT's calls that a first connection causes.
struct Call {
    operation: &'static str,
    /// Default quota, per second, account and Region (Service Quotas, `iotcore`).
    per_second: usize,
    /// Calls for one device.
    per_device: usize,
}

/// The plan for one template.
pub(super) struct Throttle {
    calls: Vec<Call>,
}

impl Throttle {
    pub(super) fn of(needs: &Needs) -> Self {
        let thing = usize::from(needs.makes_thing);
        let calls = [
            ("RegisterThing", 10, 1),
            ("RegisterCertificate", 10, 1),
            ("UpdateCertificate", 10, usize::from(needs.activates)),
            ("CreateThing", 100, thing),
            ("AttachThingPrincipal", 100, thing),
            ("AddThingToThingGroup", 100, needs.groups),
            (
                "AddThingToBillingGroup",
                60,
                usize::from(needs.billing_group),
            ),
            ("CreatePolicy", 10, needs.documents.len()),
            ("AttachPolicy", 15, needs.policies),
        ];
        let calls = calls.map(|(operation, per_second, per_device)| Call {
            operation,
            per_second,
            per_device,
        });
        Self {
            calls: calls.into_iter().filter(|c| c.per_device > 0).collect(),
        }
    }

    /// The tightest call. `RegisterThing` is always there, so there is one.
    fn narrowest(&self) -> Option<&Call> {
        self.calls
            .iter()
            .min_by_key(|call| call.per_second * 3_600 / call.per_device)
    }

    /// Devices an hour.
    pub(super) fn devices_per_hour(&self) -> usize {
        self.narrowest()
            .map_or(0, |call| call.per_second * 3_600 / call.per_device)
    }

    pub(super) fn narrowest_operation(&self) -> &'static str {
        self.narrowest().map_or("", |call| call.operation)
    }

    /// Hours for so many devices, rounded up to a tenth.
    pub(super) fn hours_for(&self, devices: usize) -> String {
        let tenths = (devices * 10).div_ceil(self.devices_per_hour().max(1));
        format!("{}.{}", tenths / 10, tenths % 10)
    }

    /// A row of Markdown for each call.
    pub(super) fn rows(&self) -> String {
        let row = |call: &Call| {
            format!(
                "| {} | {} | {} | {} |\n",
                call.operation,
                call.per_second,
                call.per_device,
                call.per_second * 3_600 / call.per_device
            )
        };
        self.calls.iter().map(row).collect()
    }

    pub(super) fn json(&self) -> Value {
        let call = |call: &Call| {
            json!({
                "operation": call.operation,
                "per_second": call.per_second,
                "per_device": call.per_device,
            })
        };
        json!({
            "calls": self.calls.iter().map(call).collect::<Vec<_>>(),
            "devices_per_hour": self.devices_per_hour(),
            "narrowest": self.narrowest_operation(),
            "hours_for_100000": self.hours_for(100_000),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_devices_take_nearly_three_hours() {
        let plan = Throttle::of(&Needs {
            makes_thing: true,
            policies: 1,
            ..Needs::default()
        });
        assert_eq!(plan.devices_per_hour(), 36_000);
        assert_eq!(plan.narrowest_operation(), "RegisterThing");
        assert_eq!(plan.hours_for(100_000), "2.8");
    }

    #[test]
    fn several_policies_are_narrower_than_register_thing() {
        let plan = Throttle::of(&Needs {
            policies: 3,
            ..Needs::default()
        });
        assert_eq!(plan.devices_per_hour(), 18_000);
        assert_eq!(plan.narrowest_operation(), "AttachPolicy");
    }
}
