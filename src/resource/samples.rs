//! The sample of each kind from the reference documentation, and Gateway API manifests as people
//! write them, for tests: they must be read, checked without a word, and survive being written.

/// Ours, one document for each kind.
pub(super) const OURS: &str = r#"apiVersion: outrigger.dev/v1
kind: Service                    # made by itself when a workload first registers
metadata: {name: orders, namespace: shop}
spec:
  ports:
    - {name: grpc, port: 9090, appProtocol: grpc, mtls: Strict}
  selector: {version: v2}
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: {name: orders-1, namespace: shop}
spec:
  service: orders
  address: 127.0.0.1
  ports: {grpc: 9090}
  inbound: 15006
  identity: spiffe://mesh.local/ns/shop/svc/orders
  weight: 1
  zone: eu-1/a
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: inventory, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: inventory}]
  timeouts: {connect: 1s, request: 2s, attempt: 500ms, streamIdle: 5m, maxStream: 1h}
  retry:
    attempts: 2
    on: {grpc: [UNAVAILABLE], http: [502, 503], reset: false}
    methods: [GET, HEAD, OPTIONS, PUT, DELETE]
    grpcMethods: [shop.Inventory/*]
    backoff: {base: 25ms, max: 250ms}
    budget: {ratio: 20%, minRate: 10/s, interval: 10s}
  bulkhead: {maxConcurrent: 100, maxQueued: 50, maxWait: 100ms, per: Destination}
  loadBalancing: {policy: PeakEwma}
  outlierDetection: {consecutiveFailures: 5, interval: 10s, baseEjection: 30s, maxEjected: 50%}
---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {name: payments, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: payments}]
  action: Allow
  rules:
    - from: [{services: [orders, refunds.billing]}, {identities: ["spiffe://mesh.local/ns/shop/svc/*"]}, {namespaces: [billing]}]
      to: [{grpc: [shop.Payments/Charge]}, {http: {methods: [GET], paths: [/health, /v1/*]}}]
---
apiVersion: outrigger.dev/v1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: mesh.local
  mtls: Strict
  namespaces: {legacy: {mtls: Permissive}}
  defaultAuthorization: Allow
  egress: Allow
  tracing: {sampling: 100%, maxPerSecond: 50/s, otlp: "http://127.0.0.1:4317", ui: "http://127.0.0.1:16686"}
  accessLog: {mode: Errors}
"#;

/// Gateway API's, mesh use.
pub(super) const GATEWAY: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: front
  namespace: shop
  labels: {app.kubernetes.io/name: front}
  annotations: {"example.com/why": "canary: 10%"}
spec:
  parentRefs:
  - group: ""
    kind: Service
    name: front
    port: 8080
  hostnames: [front.example.com]
  rules:
  - name: api
    matches:
    - path: {type: PathPrefix, value: /v1/}
      method: GET
      headers:
      - {name: X-Canary, value: "yes"}
      - {type: RegularExpression, name: version, value: "v[12]"}
      queryParams:
      - {name: debug, value: "1"}
    - path: {type: Exact, value: /health}
    - path: {type: RegularExpression, value: "/v[0-9]+/.*"}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-from, value: front}]
        add: [{name: x-more, value: "1"}]
        remove: [x-secret]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        remove: [server]
    backendRefs:
    - {name: front-v1, port: 8080, weight: 90}
    - {name: front-v2, namespace: canary, port: 8080, weight: 10}
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {codes: [502, 503], attempts: 2, backoff: 100ms}
  - backendRefs:
    - {group: outrigger.dev, kind: Service, name: front, port: 8080}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: inventory, namespace: shop}
spec:
  parentRefs: [{group: outrigger.dev, kind: Service, name: inventory}]
  rules:
  - matches:
    - method: {service: shop.Inventory, method: Reserve}
      headers: [{name: x-user, value: test}]
    - method: {type: RegularExpression, service: "shop\\..*"}
    backendRefs:
    - {name: inventory-v1, port: 9090, weight: 90}
    - {name: inventory-v2, port: 9090, weight: 0}
"#;
