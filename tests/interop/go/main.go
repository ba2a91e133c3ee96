// Calls echo:9090 as any grpc-go program would; how it gets there is the environment's business.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func main() {
	log.SetFlags(0)
	conn, err := grpc.NewClient("echo:9090", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()

	got, err := unary(ctx, conn, "hello")
	check("Unary", "hello", got, err)
	got, err = stream(ctx, conn, "Count", []string{"3"}, false, true)
	check("Count", "0 1 2", got, err)
	got, err = stream(ctx, conn, "Join", []string{"a", "b"}, true, false)
	check("Join", "a,b", got, err)
	got, err = stream(ctx, conn, "Chat", []string{"a", "b"}, true, true)
	check("Chat", "a b", got, err)

	_, err = unary(metadata.AppendToOutgoingContext(ctx, "echo-fail", "5"), conn, "")
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "was asked to fail") {
		log.Fatalf("a failing call: %v", err)
	}
	fmt.Println("ok grpc-go", grpc.Version)
}

func check(method, want, got string, err error) {
	if err != nil || got != want {
		log.Fatalf("%s: %q, %v", method, got, err)
	}
}

func unary(ctx context.Context, conn *grpc.ClientConn, text string) (string, error) {
	reply := &wrapperspb.StringValue{}
	err := conn.Invoke(ctx, "/echo.Echo/Unary", wrapperspb.String(text), reply)
	return reply.GetValue(), err
}

// Sends all texts and returns what came back.
func stream(ctx context.Context, conn *grpc.ClientConn, method string, texts []string, clients, servers bool) (string, error) {
	desc := &grpc.StreamDesc{StreamName: method, ClientStreams: clients, ServerStreams: servers}
	call, err := conn.NewStream(ctx, desc, "/echo.Echo/"+method)
	if err != nil {
		return "", err
	}
	for _, text := range texts {
		if err := call.SendMsg(wrapperspb.String(text)); err != nil {
			return "", err
		}
	}
	if err := call.CloseSend(); err != nil {
		return "", err
	}
	var got []string
	for {
		reply := &wrapperspb.StringValue{}
		err := call.RecvMsg(reply)
		if errors.Is(err, io.EOF) {
			return strings.Join(got, " "), nil
		}
		if err != nil {
			return "", err
		}
		got = append(got, reply.GetValue())
		if !servers {
			return strings.Join(got, " "), nil
		}
	}
}
