"""Manifests before the schemas of Kubernetes: the oldest version that the chart takes, and a new one. Prints them as JSON."""

import json
import sys

import kubernetes_validate
import yaml

documents = [it for it in yaml.safe_load_all(open(sys.argv[1])) if it is not None]
for document in documents:
    # A resource of the Prometheus Operator's, which Kubernetes has no schema of.
    if document["apiVersion"] == "monitoring.coreos.com/v1":
        continue
    for version in ["1.25", "1.37"]:
        kubernetes_validate.validate(document, version, strict=True)
# The schemas do refuse.
documents[0]["spec"]["policyType"] = []
try:
    kubernetes_validate.validate(documents[0], "1.37", strict=True)
    sys.exit("a field that there is not was taken")
except kubernetes_validate.ValidationError:
    del documents[0]["spec"]["policyType"]
json.dump(documents, sys.stdout)
