# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Has kcidb-io look at a file, and prints how many tests it has of each status."""

import collections
import json
import sys

from kcidb_io.schema import LATEST, V5_3
from kcidb_io.schema.abstract import jsonschema

# Formats without a checker would be taken as they are.
FORMATS = {"date-time", "uri", "email"}
assert FORMATS <= set(jsonschema.Draft7Validator.FORMAT_CHECKER.checkers), "a package is missing"
assert LATEST is V5_3, f"kcidb-io has a newer schema: {LATEST}"

with open(sys.argv[1], encoding="utf-8") as file:
    data = json.load(file)
try:
    V5_3.validate_exactly(data)
except jsonschema.exceptions.ValidationError as error:
    sys.exit(f"{error.json_path}: {error.message}")

# A file may refer to objects of another, so the schema does not ask for these.
ids = {name: [it["id"] for it in data.get(name, [])] for name in V5_3.graph if name}
for name, of_name in ids.items():
    if len(of_name) != len(set(of_name)):
        sys.exit(f"{name}: an id is there twice")
    for item in data[name]:
        for key in item.keys() & {"checkout_id", "build_id", "test_id", "issue_id"}:
            if item[key] not in ids[key.removesuffix("_id") + "s"]:
                sys.exit(f"{name}: {item['id']}: {key} {item[key]} is nowhere")

print(json.dumps(collections.Counter(test["status"] for test in data["tests"])))
