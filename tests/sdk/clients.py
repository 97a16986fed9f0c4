"""The official clients behind one door: `call(product, action, parameters)`.

Parameters have their published names; each client turns them into its own types. A refusal is
raised as `Refused`, whatever the client raises itself.
"""

import importlib
import json
import os
import re
import subprocess

VERSIONS = {
    "kms": "2016-01-20",
    "ecs": "2014-05-26",
    "ram": "2015-05-01",
    "actiontrail": "2020-07-06",
}
V2_PACKAGES = {
    "kms": "alibabacloud_kms20160120",
    "ecs": "alibabacloud_ecs20140526",
    "ram": "alibabacloud_ram20150501",
    "actiontrail": "alibabacloud_actiontrail20200706",
}
REGION = "cn-hangzhou"


class Refused(Exception):
    def __init__(self, status, code, message, request_id, data=None):
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.request_id, self.data = request_id, data or {}


class AccessKey:
    def __init__(self, key_id, secret):
        self.id, self.secret = key_id, secret

    @classmethod
    def of_file(cls, path):
        with open(path, encoding="utf-8") as file:
            key = json.load(file)
        return cls(key["AccessKeyId"], key["AccessKeySecret"])


def snake(action):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", action).lower()


class TeaClient:
    """alibabacloud_* (V2.0): typed methods; ACS3 unless told otherwise."""

    def __init__(self, endpoint, key, **config):
        self.endpoint, self.key, self.config = endpoint, key, config
        self.clients = {}

    def client(self, product):
        if product not in self.clients:
            from alibabacloud_tea_openapi.utils_models import Config

            module = importlib.import_module(V2_PACKAGES[product] + ".client")
            settings = {"protocol": "http", **self.config}
            self.clients[product] = module.Client(
                Config(
                    access_key_id=self.key.id,
                    access_key_secret=self.key.secret,
                    region_id=REGION,
                    endpoint=self.endpoint,
                    **settings,
                )
            )
        return self.clients[product]

    def call(self, product, action, parameters):
        method = getattr(self.client(product), snake(action))
        models = importlib.import_module(V2_PACKAGES[product] + ".models")
        kind = getattr(models, action + "Request", None)
        arguments = [kind().from_map(parameters)] if kind else []
        try:
            answer = method(*arguments)
        except Exception as error:  # each SDK has exceptions of its own
            raise self.refusal(error) from error
        return json.loads(json.dumps(answer.to_map()["body"], default=str))

    @staticmethod
    def refusal(error):
        code = getattr(error, "code", None)
        data = getattr(error, "data", None) or {}
        status = getattr(error, "status_code", None) or data.get("statusCode")
        if code is None or status is None:
            return error
        message = data.get("Message") or getattr(error, "message", "")
        return Refused(int(status), code, message, data.get("RequestId"), data)


class CoreClient:
    """aliyun-python-sdk-core (V1.0), with the typed requests of aliyun-python-sdk-kms."""

    def __init__(self, endpoint, key):
        from aliyunsdkcore.client import AcsClient

        self.endpoint = endpoint
        self.client = AcsClient(key.id, key.secret, REGION)

    def request(self, product, action, parameters):
        if product == "kms":
            name = f"aliyunsdkkms.request.v20160120.{action}Request"
            request = getattr(importlib.import_module(name), action + "Request")()
            for name, value in parameters.items():
                setter = getattr(request, "set_" + name, None)
                if setter:
                    setter(json.dumps(value) if isinstance(value, dict) else value)
                    continue
                text = json.dumps(value) if name.endswith("Context") else value
                for part, inner in flat({name: text}).items():
                    request.add_query_param(part, inner)
        else:
            from aliyunsdkcore.request import CommonRequest

            request = CommonRequest(
                domain=self.endpoint, version=VERSIONS[product], action_name=action
            )
            for name, value in flat(parameters).items():
                request.add_query_param(name, value)
        request.set_protocol_type("http")
        request.set_endpoint(self.endpoint)
        request.set_accept_format("JSON")
        return request

    def call(self, product, action, parameters):
        from aliyunsdkcore.acs_exception.exceptions import ServerException

        try:
            answer = self.client.do_action_with_exception(
                self.request(product, action, parameters)
            )
        except ServerException as error:
            raise Refused(
                error.get_http_status(),
                error.get_error_code(),
                error.get_error_msg(),
                error.get_request_id(),
            ) from error
        return json.loads(answer)


class NodeClient:
    """@alicloud/kms20160120 or @alicloud/pop-core, driven over a pipe."""

    def __init__(self, kind, endpoint, key):
        self.kind = kind
        here = os.path.dirname(os.path.abspath(__file__))
        environment = {
            **os.environ,
            "NODE_PATH": os.environ["SEALDISK_NODE_MODULES"],
            "ACCESS_KEY_ID": key.id,
            "ACCESS_KEY_SECRET": key.secret,
            "ENDPOINT": endpoint,
            "KIND": kind,
        }
        self.child = subprocess.Popen(
            ["node", os.path.join(here, "bridge.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def call(self, product, action, parameters):
        if self.kind == "pop-core":  # the typed client takes maps as maps
            parameters = {
                name: json.dumps(value) if isinstance(value, dict) else value
                for name, value in parameters.items()
            }
        line = {"version": VERSIONS[product], "action": action, "parameters": parameters}
        self.child.stdin.write(json.dumps(line) + "\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline())
        if "error" in answer:
            told = answer["error"]
            data = told["data"]
            request_id = data.get("RequestId")
            raise Refused(told["status"], told["code"], told["message"], request_id, data)
        return answer["answer"]


def flat(parameters):
    """Lists and objects as the RPC form has them: `Tag.1.Key`."""
    out = {}

    def walk(name, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}", inner)
        elif isinstance(value, list):
            for index, inner in enumerate(value, 1):
                walk(f"{name}.{index}", inner)
        else:
            out[name] = value

    for name, value in parameters.items():
        walk(name, value)
    return out


def make(kind, endpoint, key):
    """A client by name; `endpoint` is `HOST:PORT`."""
    if kind == "v2-acs3":
        return TeaClient(endpoint, key)
    if kind == "v2-rpc":
        return TeaClient(endpoint, key, signature_algorithm="v2")
    if kind == "v2-acs4":
        return TeaClient(endpoint, key, signature_version="v4")
    if kind == "v1":
        return CoreClient(endpoint, key)
    return NodeClient(kind, endpoint, key)
