"""Services that moto lacks: the Price List, Service Quotas, and images that SSM knows by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .answer import Answer, document, error
from .call import Call
from .catalog import on_demand_usd, priced_types

if TYPE_CHECKING:
    from .world import World

IMAGE_PARAMETER_PREFIX = "/aws/service/deeplearning/ami/"
# Codes as AWS lists them in the console of Service Quotas; vCPUs, per region.
QUOTAS = {
    "L-DB2E81BA": "Running On-Demand G and VT instances",
    "L-417A185B": "Running On-Demand P instances",
    "L-1216C47A": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
    "L-3819A6DF": "All G and VT Spot Instance Requests",
    "L-7212CCBC": "All P4, P3 and P2 Spot Instance Requests",
    "L-C4BD4855": "All P5 Spot Instance Requests",
    "L-34B43A08": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
}


def answer_table(world: World, call: Call) -> Answer | None:
    """The answer of a service that moto lacks; None for calls that are moto's."""
    match call.service, call.operation:
        case "pricing", "GetProducts":
            return _products(call)
        case "pricing", _:
            return error(call, "InvalidParameterException", f"this world does not know {call.operation}")
        case "servicequotas", "GetServiceQuota":
            return _quota(world, call)
        case "servicequotas", "ListServiceQuotas":
            return document({"Quotas": [_quota_of(world, call.region, code) for code in QUOTAS]})
        case "ssm", "GetParameter":
            return _parameter(world, call)
        case "ssm", "GetParametersByPath" if call.parameters["Path"].startswith(IMAGE_PARAMETER_PREFIX.rstrip("/")):
            names = [name for name in world.image_parameters if name.startswith(call.parameters["Path"])]
            return document({"Parameters": [_parameter_of(world, call.region, name) for name in names]})
        case _:
            return None


def _products(call: Call) -> Answer:
    wanted = {each["Field"]: each["Value"] for each in call.parameters.get("Filters", [])}
    region = wanted.get("regionCode", "us-east-1")
    found = []
    for kind in priced_types():
        attributes = {
            "instanceType": kind,
            "regionCode": region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
            "licenseModel": "No License required",
            "marketoption": "OnDemand",
            "operation": "RunInstances",
            "servicecode": "AmazonEC2",
        }
        if all(attributes.get(field) == value for field, value in wanted.items()):
            found.append(json.dumps(_product(kind, attributes)))
    first = int(call.parameters.get("NextToken") or 0)
    size = int(call.parameters.get("MaxResults") or 100)
    more = {"NextToken": str(first + size)} if first + size < len(found) else {}
    return document({"FormatVersion": "aws_v1", "PriceList": found[first : first + size], **more})


def _product(kind: str, attributes: dict[str, str]) -> dict[str, Any]:
    sku = f"SKU{kind.upper().replace('.', '')}"
    term, rate = f"{sku}.JRTCKXETXF", f"{sku}.JRTCKXETXF.6YS6EN2CT7"
    price = {"unit": "Hrs", "rateCode": rate, "pricePerUnit": {"USD": f"{on_demand_usd(kind):.10f}"}}
    return {
        "product": {"productFamily": "Compute Instance", "sku": sku, "attributes": attributes},
        "serviceCode": "AmazonEC2",
        "terms": {
            "OnDemand": {
                term: {
                    "sku": sku,
                    "offerTermCode": "JRTCKXETXF",
                    "effectiveDate": "2026-07-01T00:00:00Z",
                    "priceDimensions": {rate: price},
                }
            }
        },
        "publicationDate": "2026-07-20T00:00:00Z",
    }


def _quota(world: World, call: Call) -> Answer:
    code = call.parameters["QuotaCode"]
    if code not in QUOTAS:
        return error(call, "NoSuchResourceException", f"no quota {code}")
    return document({"Quota": _quota_of(world, call.region, code)})


def _quota_of(world: World, region: str, code: str) -> dict[str, Any]:
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{world.account}:ec2/{code}",
        "QuotaCode": code,
        "QuotaName": QUOTAS[code],
        "Value": float(world.quotas.get((region, code), world.quotas.get(("*", code), 1000))),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }


def _parameter(world: World, call: Call) -> Answer | None:
    name = call.parameters["Name"]
    if not name.startswith(IMAGE_PARAMETER_PREFIX):
        return None
    if name not in world.image_parameters:
        return error(call, "ParameterNotFound", f"no parameter {name}")
    return document({"Parameter": _parameter_of(world, call.region, name)})


def _parameter_of(world: World, region: str, name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Type": "String",
        "Value": world.image(region),
        "Version": 1,
        "ARN": f"arn:aws:ssm:{region}::parameter{name}",
        "DataType": "aws:ec2:image",
    }
