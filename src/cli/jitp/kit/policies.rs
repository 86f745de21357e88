//! The policies of a kit: the role's trust and permissions, the operator's, a device's.

use serde_json::Value;
use serde_json::json;

use super::Mode;
use super::files::Kit;
use super::needs::Kind;
use super::needs::Needs;

/// Version of the policy language.
const VERSION: &str = "2012-10-17";

/// AWS IoT may take the role, for this account and Region only (the "confused deputy" conditions
/// of the AWS IoT developer guide).
pub(super) fn trust(kit: &Kit<'_>) -> Value {
    json!({
        "Version": VERSION,
        "Statement": [{
            "Sid": "AwsIotOfThisAccountAndRegion",
            "Effect": "Allow",
            "Principal": { "Service": "iot.amazonaws.com" },
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": { "aws:SourceAccount": kit.account.to_string() },
                "ArnLike": { "aws:SourceArn": kit.iot_arn("*") },
            },
        }],
    })
}

/// The part of the managed policy `AWSIoTThingsRegistration` that this template uses.
pub(super) fn permissions(needs: &Needs) -> Value {
    let mut actions = vec![
        "iot:DescribeCertificate",
        "iot:RegisterCertificate",
        "iot:RegisterThing",
        "iot:UpdateCertificate",
    ];
    if needs.makes_thing {
        actions.extend([
            "iot:AttachThingPrincipal",
            "iot:CreateThing",
            "iot:DescribeThing",
            "iot:DescribeThingType",
            "iot:DetachThingPrincipal",
            "iot:ListPrincipalThings",
            "iot:ListThingPrincipals",
            "iot:UpdateThing",
        ]);
    }
    if needs.groups > 0 {
        actions.extend([
            "iot:AddThingToThingGroup",
            "iot:DescribeThingGroup",
            "iot:ListThingGroupsForThing",
            "iot:RemoveThingFromThingGroup",
            "iot:UpdateThingGroupsForThing",
        ]);
    }
    if needs.billing_group {
        actions.extend([
            "iot:AddThingToBillingGroup",
            "iot:DescribeBillingGroup",
            "iot:RemoveThingFromBillingGroup",
        ]);
    }
    if needs.policies > 0 {
        actions.extend([
            "iot:AttachPolicy",
            "iot:AttachPrincipalPolicy",
            "iot:DetachPolicy",
            "iot:GetPolicy",
            "iot:ListAttachedPolicies",
            "iot:ListPolicyPrincipals",
            "iot:ListPrincipalPolicies",
            "iot:ListTargetsForPolicy",
        ]);
    }
    if !needs.documents.is_empty() {
        actions.push("iot:CreatePolicy");
    }
    actions.sort_unstable();
    json!({
        "Version": VERSION,
        "Statement": [{
            "Sid": "JustInTimeProvisioning",
            "Effect": "Allow",
            "Action": actions,
            "Resource": "*",
        }],
    })
}

/// What the person who runs `register.sh` needs; `--narrow-role` needs more, because who may put
/// any policy into a role may do whatever the role can be made to do.
pub(super) fn operator(kit: &Kit<'_>, needs: &Needs) -> Value {
    let mut anywhere = vec![
        "iot:DescribeEndpoint",
        "iot:RegisterCACertificate",
        "sts:GetCallerIdentity",
    ];
    if kit.mode == Mode::Default {
        anywhere.push("iot:GetRegistrationCode");
    }
    anywhere.sort_unstable();
    let mut statements = vec![
        json!({
            "Sid": "CallsWithoutAResource",
            "Effect": "Allow",
            "Action": anywhere,
            "Resource": "*",
        }),
        json!({
            "Sid": "TheCa",
            "Effect": "Allow",
            "Action": ["iot:DescribeCACertificate", "iot:UpdateCACertificate"],
            "Resource": kit.ca_arn(),
        }),
        json!({
            "Sid": "TheTemplate",
            "Effect": "Allow",
            "Action": [
                "iot:CreateProvisioningTemplate",
                "iot:CreateProvisioningTemplateVersion",
                "iot:DeleteProvisioningTemplateVersion",
                "iot:DescribeProvisioningTemplate",
                "iot:ListProvisioningTemplateVersions",
                "iot:UpdateProvisioningTemplate",
            ],
            "Resource": kit.template_arn(),
        }),
        json!({
            "Sid": "TheRole",
            "Effect": "Allow",
            "Action": ["iam:CreateRole", "iam:GetRole", "iam:ListAttachedRolePolicies"],
            "Resource": kit.role_arn(),
        }),
        // Without the condition, whoever holds this policy could make the role an administrator.
        json!({
            "Sid": "NoOtherManagedPolicy",
            "Effect": "Allow",
            "Action": "iam:AttachRolePolicy",
            "Resource": kit.role_arn(),
            "Condition": { "ArnEquals": { "iam:PolicyARN": kit.managed_policy_arn() } },
        }),
        json!({
            "Sid": "HandTheRoleToAwsIot",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": kit.role_arn(),
            "Condition": { "StringEquals": { "iam:PassedToService": "iot.amazonaws.com" } },
        }),
    ];
    let checks = [
        (Kind::ThingType, "iot:DescribeThingType", "thingtype"),
        (Kind::ThingGroup, "iot:DescribeThingGroup", "thinggroup"),
        (
            Kind::BillingGroup,
            "iot:DescribeBillingGroup",
            "billinggroup",
        ),
        (Kind::Policy, "iot:GetPolicy", "policy"),
    ];
    let mut actions = Vec::new();
    let mut resources = Vec::new();
    for (kind, action, resource) in checks {
        if needs.names.iter().any(|need| need.kind == kind) {
            actions.push(action);
            resources.push(kit.iot_arn(&format!("{resource}/*")));
        }
    }
    if !actions.is_empty() {
        statements.push(json!({
            "Sid": "PreFlight",
            "Effect": "Allow",
            "Action": actions,
            "Resource": resources,
        }));
    }
    json!({ "Version": VERSION, "Statement": statements })
}

/// A device connects under its own thing's name only, and reads and writes its own topics.
///
/// Thing policy variables resolve only when the MQTT client id is the name of a thing that the
/// certificate is attached to.
pub(super) fn device(kit: &Kit<'_>) -> Value {
    let thing = "${iot:Connection.Thing.ThingName}";
    let topics = |kind: &str| {
        [
            kit.iot_arn(&format!("{kind}/devices/{thing}/*")),
            kit.iot_arn(&format!("{kind}/$aws/things/{thing}/shadow/*")),
        ]
    };
    let attached = json!({ "Bool": { "iot:Connection.Thing.IsAttached": "true" } });
    json!({
        "Version": VERSION,
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "iot:Connect",
                "Resource": kit.iot_arn(&format!("client/{thing}")),
                "Condition": attached,
            },
            {
                "Effect": "Allow",
                "Action": ["iot:Publish", "iot:Receive"],
                "Resource": topics("topic"),
            },
            {
                "Effect": "Allow",
                "Action": "iot:Subscribe",
                "Resource": topics("topicfilter"),
            },
        ],
    })
}
