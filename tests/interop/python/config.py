"""A client of the control plane made from proto/ with grpcio-tools, as anybody would make one.

config.py PROTO_DIRECTORY WORK_DIRECTORY SERVER ROOT CERTIFICATE KEY

Reads one JSON request a line from stdin, {"call": …}, and answers each with one JSON line.
"""

import glob
import json
import os
import sys

import grpc
from google.protobuf import json_format
from grpc_tools import protoc

proto, work, server, root, certificate, key = sys.argv[1:]
files = sorted(glob.glob(os.path.join(proto, "outrigger/v1/*.proto")))
include = os.path.join(os.path.dirname(protoc.__file__), "_proto")
flags = [f"-I{proto}", f"-I{include}", f"--python_out={work}", f"--grpc_python_out={work}"]
if protoc.main(["protoc", *flags, *files]) != 0:
    sys.exit("protoc failed")
sys.path.insert(0, work)

from outrigger.v1 import config_pb2, config_pb2_grpc  # noqa: E402


def read(path):
    with open(path, "rb") as file:
        return file.read()


credentials = grpc.ssl_channel_credentials(read(root), read(key), read(certificate))
client = config_pb2_grpc.ConfigServiceStub(grpc.secure_channel(server, credentials))
requests = {
    "Apply": config_pb2.ApplyRequest,
    "Delete": config_pb2.DeleteRequest,
    "Diff": config_pb2.DiffRequest,
    "Get": config_pb2.GetRequest,
    "History": config_pb2.HistoryRequest,
    "List": config_pb2.ListRequest,
    "Rollback": config_pb2.RollbackRequest,
}
for line in sys.stdin:
    asked = json.loads(line)
    name = asked.pop("call")
    request = json_format.ParseDict(asked, requests[name]())
    try:
        answer = getattr(client, name)(request, timeout=20)
        answers = list(answer) if name == "Diff" else [answer]
        said = [json_format.MessageToDict(answer) for answer in answers]
    except grpc.RpcError as error:
        said = {"code": error.code().name, "message": error.details()}
    print(json.dumps(said), flush=True)
