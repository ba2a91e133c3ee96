"""Calls echo:9090 as any grpcio program would; how it gets there is the environment's business."""

import grpc
from google.protobuf.wrappers_pb2 import StringValue


def main():
    coders = {
        "request_serializer": StringValue.SerializeToString,
        "response_deserializer": StringValue.FromString,
    }
    within = {"timeout": 15}
    texts = ["a", "b"]
    with grpc.insecure_channel("echo:9090") as channel:
        unary = channel.unary_unary("/echo.Echo/Unary", **coders)
        assert unary(StringValue(value="hello"), **within).value == "hello"
        count = channel.unary_stream("/echo.Echo/Count", **coders)
        counted = [text.value for text in count(StringValue(value="3"), **within)]
        assert counted == ["0", "1", "2"], counted
        join = channel.stream_unary("/echo.Echo/Join", **coders)
        joined = join((StringValue(value=text) for text in texts), **within).value
        assert joined == "a,b", joined
        chat = channel.stream_stream("/echo.Echo/Chat", **coders)
        chatted = [text.value for text in chat((StringValue(value=t) for t in texts), **within)]
        assert chatted == texts, chatted
        try:
            unary(StringValue(), metadata=[("echo-fail", "5")], **within)
            raise AssertionError("it did not fail")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            assert "was asked to fail" in error.details(), error
    print("ok grpcio", grpc.__version__)


main()
