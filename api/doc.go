// Package api is the HTTP face of usaged: it takes usage events in and answers questions about them. It is thin: what
// an event is belongs to package event, what is durable and what is counted to package aggregator.
//
// What it promises:
//
//   - A request is answered 202 only after [Accepter] has returned, so 202 means durable. On every other answer nothing
//     of the request was accepted.
//   - No redirect, ever: both slash forms of a path are the same resource.
//   - Every refusal is application/problem+json (RFC 9457) with a stable code. Its type is always about:blank, so the
//     title is the status phrase, and what tells problems apart is code; openapi.yaml lists the codes.
//   - What clients send cannot grow memory without a cap: bodies are bounded one by one (8 MiB, compressed and
//     decompressed) and all together (Config.MaxInflightBytes), and a slow reader of an answer is cut off.
//   - Tokens, bodies and user ids never reach a log.
//
// Everything exported is safe for concurrent use.
//
//	handler, err := api.New(api.Config{Accepter: agg, Reader: reader, Ledger: agg, Tokens: tokens, …})
//	server := api.Server(handler, logger)
//	server.Serve(listener)
package api
