"""An AWS on loopback, to try deploy/ on without an account: moto's server, with what a fleet needs and moto 5.2.5 lacks or forgets.

    awsfake.py PORT

serves on 127.0.0.1 until it is ended. Nothing is simulated beyond the control plane: no task runs, no broker listens. GET /awsfake/gaps lists what was asked for and
neither moto nor this file has. Such a call is answered at once by 400: moto's own 500 would be tried again for eight minutes.
"""

import io
import json
import os
import re
import sys
import threading
import time
import urllib.parse
import uuid

os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")  # AWS's own policies, which roles are attached to

from moto.applicationautoscaling.models import ApplicationAutoscalingBackend, applicationautoscaling_backends
from moto.ec2 import ec2_backends
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import InstanceBackend
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.ec2.responses.instances import InstanceResponse
from moto.ecs.models import ecs_backends
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.iam.access_control import IAMPolicy
from moto.logs import logs_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.route53.models import FakeZone
from moto.route53.responses import Route53
from moto.s3.models import FakeBucket
from werkzeug.serving import WSGIRequestHandler, run_simple
from werkzeug.wrappers import Request, Response

ACCOUNT = "123456789012"
REGIONS = ("eu-central-1", "eu-west-1", "us-east-1")
CREATED = "2026-01-01T00:00:00Z"

gaps = {}  # what was asked for in vain: times
kept = {}  # state of what moto lacks: (what, region): {}
kept_lock = threading.Lock()


def keep(what, region=""):
    with kept_lock:
        return kept.setdefault((what, region), {})


# --- repairs: fields that moto takes and forgets. Each was seen as a plan that never came clean. ------------------------------------------

SERVICE_FIELDS = {
    "availabilityZoneRebalancing": "ENABLED",
    "enableECSManagedTags": False,
    "healthCheckGracePeriodSeconds": 0,
    "deploymentConfiguration": {},
    "enableExecuteCommand": False,
}


def services_remember(operation, key):
    moto = getattr(EC2ContainerServiceResponse, operation)

    def repaired(self):
        answer = moto(self)
        asked = self._get_params()
        found, _ = self.ecs_backend.describe_services(asked.get("cluster", "default"), [asked[key]])
        for field, default in SERVICE_FIELDS.items():
            if operation == "create_service" or field in asked:
                setattr(found[0], field, asked.get(field, default))
        return answer

    setattr(EC2ContainerServiceResponse, operation, repaired)


services_remember("create_service", "serviceName")
services_remember("update_service", "service")


def zones_are_private():
    """A zone with a network is private, and says which network it has."""
    create, add = Route53.create_hosted_zone, FakeZone.add_vpc

    def create_hosted_zone(self):
        if self._get_param("VPC.VPCId"):
            param = self._get_param
            self._get_param = lambda name, *default: True if name == "HostedZoneConfig.PrivateZone" else param(name, *default)
        return create(self)

    def add_vpc(self, vpc_id, vpc_region):
        added = add(self, vpc_id, vpc_region)
        added.update({"VPCId": vpc_id, "VPCRegion": vpc_region})
        return added

    Route53.create_hosted_zone, FakeZone.add_vpc = create_hosted_zone, add_vpc


zones_are_private()
# An interface without a public address has no association: an empty one is read as an address.
NetworkInterface.association = property(lambda interface, ask=NetworkInterface.association.fget: ask(interface) or None)
SecurityGroupRule.description = property(lambda rule: (rule.ip_range or {}).get("Description") or (rule.source_group or {}).get("Description"))


def policies_with_conditions():
    """A statement with a condition is of no effect: moto evaluates no condition, and would deny everything that is to be denied without TLS."""

    def get_permission(self, action, resource):
        policy = json.loads(self.policy or '{"Statement": []}')
        policy["Statement"] = [s for s in policy["Statement"] if "Condition" not in s]
        return IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource)

    FakeBucket.get_permission = get_permission


policies_with_conditions()


def policies_by_service():
    """Scaling policies are of one service, not of all whose names it begins with."""
    ask = ApplicationAutoscalingBackend.describe_scaling_policies

    def describe_scaling_policies(self, service_namespace, resource_id, *args, **named):
        token, found = ask(self, service_namespace, resource_id, *args, **named)
        return token, [p for p in found if not resource_id or p.resource_id == resource_id]

    ApplicationAutoscalingBackend.describe_scaling_policies = describe_scaling_policies


policies_by_service()


def instances_are_protected():
    """An instance that is made with protection against termination has it."""
    run, answer = InstanceBackend.run_instances, InstanceResponse.run_instances

    def run_instances(self, *args, **named):
        self.newest = run(self, *args, **named)
        return self.newest

    def protected(self):
        answered = answer(self)
        if str(self._get_param("DisableApiTermination")).lower() == "true":
            for instance in self.ec2_backend.newest.instances:
                instance.disable_api_termination = True
        return answered

    InstanceBackend.run_instances, InstanceResponse.run_instances = run_instances, protected


instances_are_protected()


def prefix_lists():
    """AWS's list of Route 53's health checkers, of every region."""
    for region in REGIONS:
        ec2_backends[ACCOUNT][region].create_managed_prefix_list(
            address_family="IPv4", entry=[{"Cidr": "15.177.0.0/18"}], max_entries="5", prefix_list_name=f"com.amazonaws.{region}.route53-healthchecks", tags={}
        )


# --- what moto lacks -----------------------------------------------------------------------------------------------------------------------


def as_json(body, code=200, error=None):
    headers = {"x-amzn-ErrorType": error} if error else {}
    return Response(json.dumps({"__type": error, **body} if error else body), code, headers, content_type="application/json")


def not_found(what):
    return as_json({"message": f"{what} does not exist", "resourceId": what, "resourceType": what}, 404, "ResourceNotFoundException")


def kafka_configuration(request, region):
    """MSK configurations with their revisions."""
    found = keep("configurations", region)
    path = urllib.parse.unquote(request.path)
    if path == "/v1/configurations" and request.method == "GET":
        return as_json({"configurations": [{name: value for name, value in one.items() if name != "revisions"} for one in found.values()]})
    if path == "/v1/configurations":
        asked = request.get_json()
        arn = f"arn:aws:kafka:{region}:{ACCOUNT}:configuration/{asked['name']}/{uuid.uuid4()}-2"
        latest = {"revision": 1, "creationTime": CREATED, "description": asked.get("description", "")}
        found[arn] = {
            "arn": arn, "name": asked["name"], "description": asked.get("description", ""), "kafkaVersions": asked.get("kafkaVersions", []),
            "state": "ACTIVE", "creationTime": CREATED, "latestRevision": latest, "revisions": [asked["serverProperties"]],
        }  # fmt: skip
        return as_json({"arn": arn, "name": asked["name"], "state": "ACTIVE", "latestRevision": latest})
    match = re.fullmatch(r"/v1/configurations/(arn:[^/]+/[^/]+/[^/]+)(?:/revisions/(\d+))?", path)
    one = found.get(match[1]) if match else None
    if not one:
        return as_json({"message": "Configuration ARN does not exist", "invalidParameter": "arn"}, 400, "BadRequestException")
    if request.method == "DELETE":
        del found[one["arn"]]
        return as_json({"arn": one["arn"], "state": "DELETING"})
    if request.method == "PUT":
        one["revisions"].append(request.get_json()["serverProperties"])
        one["latestRevision"] = {"revision": len(one["revisions"]), "creationTime": CREATED, "description": ""}
        return as_json({"arn": one["arn"], "latestRevision": one["latestRevision"]})
    if match[2]:
        return as_json({"arn": one["arn"], "revision": int(match[2]), "serverProperties": one["revisions"][int(match[2]) - 1], "description": one["description"], "creationTime": CREATED})
    return as_json({name: value for name, value in one.items() if name != "revisions"})


def kafka_cluster(request, region):
    """MSK clusters: moto's never leave CREATING, forget the brokers' settings, and have ARNs without the cluster's name."""
    found = keep("clusters", region)
    path = urllib.parse.unquote(request.path)
    if request.method == "POST" and path == "/v1/clusters":
        asked = request.get_json()
        name = asked.pop("clusterName")
        tags = asked.pop("tags", {})
        configuration = asked.pop("configurationInfo", {})
        asked["currentBrokerSoftwareInfo"] = {"kafkaVersion": asked.pop("kafkaVersion"), "configurationArn": configuration.get("arn"), "configurationRevision": configuration.get("revision")}
        asked.setdefault("storageMode", "LOCAL")
        asked["brokerNodeGroupInfo"].setdefault("brokerAZDistribution", "DEFAULT")
        asked["brokerNodeGroupInfo"].setdefault("connectivityInfo", {"publicAccess": {"type": "DISABLED"}})
        arn = f"arn:aws:kafka:{region}:{ACCOUNT}:cluster/{name}/{uuid.uuid4()}-2"
        found[arn] = {"clusterArn": arn, "clusterName": name, "clusterType": "PROVISIONED", "currentVersion": "K1", "state": "ACTIVE", "creationTime": CREATED, "tags": tags, "provisioned": asked}
        return as_json({"clusterArn": arn, "clusterName": name, "state": "CREATING"})
    if request.method == "GET" and path == "/v1/clusters":
        return as_json({"clusterInfoList": [{"clusterArn": arn, "clusterName": one["clusterName"]} for arn, one in found.items()]})
    match = re.fullmatch(r"/(v1|api/v2)/(clusters|tags)/(arn:[^/]+/[^/]+/[^/]+)(/.*)?", path)
    if not match:
        raise NotImplementedError(path)
    one = found.get(match[3])
    if match[2] == "tags":
        tags = (one or keep("configurations", region).get(match[3], {})).setdefault("tags", {})
        tags.update((request.get_json() or {}).get("tags", {}) if request.method == "POST" else {})
        for name in request.args.getlist("tagKeys") if request.method == "DELETE" else []:
            tags.pop(name, None)
        return as_json({"tags": tags})
    if not one:
        return as_json({"message": "cluster not found", "invalidParameter": "clusterArn"}, 404, "NotFoundException")
    if match[4] == "/bootstrap-brokers":
        host = f"{one['clusterName']}.fake.c2.kafka.{region}.amazonaws.com"
        return as_json({"bootstrapBrokerStringSaslIam": ",".join(f"b-{i}.{host}:9098" for i in (1, 2, 3))})
    if match[4] is None and request.method == "DELETE":
        del found[match[3]]
        return as_json({"clusterArn": match[3], "state": "DELETING"})
    if match[4] is None and request.method == "GET":
        if match[1] == "api/v2":
            return as_json({"clusterInfo": one})
        return as_json({"clusterInfo": {**{k: v for k, v in one.items() if k not in ("provisioned", "clusterType")}, **one["provisioned"]}})
    if match[4] == "/nodes/count" and request.method == "PUT":  # more brokers
        one["provisioned"]["numberOfBrokerNodes"] = request.get_json()["targetNumberOfBrokerNodes"]
        return operation(one, region)
    raise NotImplementedError(f"{request.method} {match[4]}")


def operation(cluster, region):
    """A change of a cluster, which is done before anybody asks."""
    arn = cluster["clusterArn"].replace(":cluster/", ":cluster-operation/") + "/" + str(uuid.uuid4())
    keep("operations", region)[arn] = {"operationArn": arn, "clusterArn": cluster["clusterArn"], "operationState": "UPDATE_COMPLETE"}
    return as_json({"clusterArn": cluster["clusterArn"], "clusterOperationArn": arn})


def kafka(request, region):
    if request.path.startswith("/v1/configurations"):
        return kafka_configuration(request, region)
    if request.path.startswith("/v1/operations/"):
        return as_json({"clusterOperationInfo": keep("operations", region)[urllib.parse.unquote(request.path).removeprefix("/v1/operations/")]})
    return kafka_cluster(request, region)


def alertmanager(request, region):
    """The definition of Managed Prometheus' Alertmanager."""
    found, workspace = keep("alertmanager", region), request.path.split("/")[2]
    if request.method in ("POST", "PUT"):
        found[workspace] = request.get_json()["data"]
        return as_json({"status": {"statusCode": "CREATING"}}, 202)
    if workspace not in found:
        return not_found("alertmanager")
    if request.method == "DELETE":
        del found[workspace]
        return as_json({}, 202)
    return as_json({"alertManagerDefinition": {"data": found[workspace], "status": {"statusCode": "ACTIVE"}, "createdAt": time.time(), "modifiedAt": time.time()}})


def autoscaling(request, region, name):
    """Tags of scalable targets."""
    tags, asked = keep("scalable", region), request.get_json(force=True)
    if name == "RegisterScalableTarget" and "Tags" in asked:
        tags[asked["ResourceId"], asked["ScalableDimension"]] = asked["Tags"]
    if name in ("TagResource", "UntagResource"):
        return as_json({})
    if name == "ListTagsForResource":
        for targets in applicationautoscaling_backends[ACCOUNT][region].targets.values():
            for target in targets.values():
                if target.arn == asked["ResourceARN"]:
                    return as_json({"Tags": tags.get((target.resource_id, target.scalable_dimension), {})})
        return as_json({"Tags": {}})
    return None


def budgets(request, name):
    """Who hears of a budget, and its tags."""
    heard, tags, asked = keep("subscribers"), keep("budget-tags"), request.get_json(force=True)

    def key(notification):
        return notification["NotificationType"], float(notification["Threshold"])

    if name == "CreateBudget":
        tags["all"] = asked.get("ResourceTags", [])
        for n in asked.get("NotificationsWithSubscribers", []):
            heard[key(n["Notification"])] = n["Subscribers"]
    if name == "CreateNotification":
        heard[key(asked["Notification"])] = asked["Subscribers"]
    if name == "DescribeSubscribersForNotification":
        return as_json({"Subscribers": heard.get(key(asked["Notification"]), [])})
    if name in ("ListTagsForResource", "TagResource", "UntagResource"):
        return as_json({"ResourceTags": tags.get("all", [])})
    return None


def tasks(request, region, name):
    """A task that somebody starts has ended by the time that he asks, and says in its log that nothing ran."""
    asked = request.get_json(force=True)
    if name == "RunTask":
        family = asked["taskDefinition"]
        definition = ecs_backends[ACCOUNT][region].describe_task_definition(family)
        container = definition.container_definitions[0]
        override = next(iter(asked.get("overrides", {}).get("containerOverrides", [])), {})
        log, run = container["logConfiguration"]["options"], uuid.uuid4().hex
        arn = f"arn:aws:ecs:{region}:{ACCOUNT}:task/{asked['cluster']}/{run}"
        stream = f"{log['awslogs-stream-prefix']}/{container['name']}/{run}"
        backend = logs_backends[ACCOUNT][region]
        backend.create_log_stream(log["awslogs-group"], stream)
        said = "awsfake runs no task; this one had been: " + " ".join(override.get("command", container.get("command", [])))
        backend.put_log_events(log["awslogs-group"], stream, [{"timestamp": int(time.time() * 1000), "message": said}])
        keep("tasks", region)[arn] = {
            "taskArn": arn, "clusterArn": asked["cluster"], "taskDefinitionArn": definition.arn, "lastStatus": "STOPPED", "desiredStatus": "STOPPED",
            "stopCode": "EssentialContainerExited", "containers": [{"name": container["name"], "lastStatus": "STOPPED", "exitCode": 0}],
        }  # fmt: skip
        return as_json({"tasks": [keep("tasks", region)[arn]], "failures": []})
    found = keep("tasks", region)
    if name == "DescribeTasks" and all(arn in found for arn in asked["tasks"]):
        return as_json({"tasks": [found[arn] for arn in asked["tasks"]], "failures": []})
    return None


def as_written(request, what):
    """Lifecycles and replications of buckets, which are what was written: moto forgets filters by size, and which objects a replication selects."""
    found, minimum = keep(what), "x-amz-transition-default-minimum-object-size"
    if request.method == "PUT":
        found[request.path] = (request.get_data(), request.headers.get(minimum, "all_storage_classes_128K"))
    elif request.method == "DELETE":
        found.pop(request.path, None)
        return Response(status=204)
    elif request.path not in found:
        return None
    body, size = found[request.path]
    return Response(body if request.method == "GET" else b"", headers={minimum: size}, content_type="application/xml")


def monitoring(request, region):
    """Detailed monitoring of instances."""
    ids = [value for name, value in request.form.items() if name.startswith("InstanceId.")]
    for instance in ids:
        ec2_backends[ACCOUNT][region].get_instance(instance).monitoring_state = "enabled"
    items = "".join(f"<item><instanceId>{i}</instanceId><monitoring><state>enabled</state></monitoring></item>" for i in ids)
    space = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return Response(f'<MonitorInstancesResponse xmlns="{space}"><instancesSet>{items}</instancesSet></MonitorInstancesResponse>', content_type="text/xml")


def beyond_moto(request):
    """The answer to what moto lacks; None: moto has it."""
    signed = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", request.headers.get("Authorization", ""))
    region, service = signed.groups() if signed else ("us-east-1", "")
    target, _, name = request.headers.get("X-Amz-Target", "").partition(".")
    if service == "kafka":
        return kafka(request, region)
    for what in ("lifecycle", "replication"):
        if service == "s3" and what in request.args:
            return as_written(request, what)
    if service == "ec2" and request.form.get("Action") == "MonitorInstances":
        return monitoring(request, region)
    if service == "aps" and request.path.endswith("/alertmanager/definition"):
        return alertmanager(request, region)
    if target == "AnyScaleFrontendService":
        return autoscaling(request, region, name)
    if target == "AWSBudgetServiceGateway":
        return budgets(request, name)
    if target.startswith("AmazonEC2ContainerService") and name in ("RunTask", "DescribeTasks"):
        return tasks(request, region, name)
    return None


# --- the server ------------------------------------------------------------------------------------------------------------------------------


class Fake:
    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()  # moto's models are not made for threads: in 500 resources made at once a rule was lost
        self.answered = {}

    def __call__(self, environ, start):
        """A client that lost an answer tries again under the same id and gets that answer: else its create would say that the thing exists."""
        call = environ.get("HTTP_AMZ_SDK_INVOCATION_ID")
        if call in self.answered:
            status, headers, body = self.answered[call]
            start(status, headers)
            return [body]
        seen = []

        def remember(status, headers, exc_info=None):
            seen[:] = [status, headers]
            return start(status, headers, exc_info) if exc_info else start(status, headers)

        body = b"".join(self.answer(environ, remember))
        if call and seen and seen[0].startswith("2"):
            self.answered[call] = (seen[0], seen[1], body)
        return [body]

    def answer(self, environ, start):
        if environ["PATH_INFO"] == "/awsfake/gaps":
            return as_json(gaps)(environ, start)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])) if environ.get("CONTENT_LENGTH") else None
        request = Request(dict(environ))
        if body is not None:  # it is read twice
            environ["wsgi.input"], request.environ["wsgi.input"] = io.BytesIO(body), io.BytesIO(body)
        try:
            answer = beyond_moto(request)
            if answer is not None:
                return answer(environ, start)
            with self.lock:
                return list(self.moto(environ, start))
        except Exception as wrong:  # whatever moto meets is a gap, and said as one
            return self.gap(request, wrong)(environ, start)

    def gap(self, request, wrong):
        what = request.headers.get("X-Amz-Target") or request.form.get("Action") or f"{request.method} {request.path}"
        what = f"{what}: {type(wrong).__name__}: {wrong}"
        gaps[what] = gaps.get(what, 0) + 1
        print("awsfake: gap:", what, file=sys.stderr, flush=True)
        if request.form or "xml" in request.headers.get("Content-Type", ""):
            return Response(f"<ErrorResponse><Error><Code>NotImplemented</Code><Message>{type(wrong).__name__}</Message></Error></ErrorResponse>", 400, content_type="text/xml")
        return as_json({"message": str(wrong)}, 400, "NotImplemented")


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code="-", size="-"):
        pass


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    prefix_lists()
    run_simple("127.0.0.1", int(sys.argv[1]), Fake(), threaded=True, request_handler=Handler)
