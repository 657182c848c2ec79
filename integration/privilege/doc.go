// Package privilege proves that each role of deploy/modules/cell may do what its component does, and nothing else.
//
// A cell runs from its distributed configurations between proxies that write down what each component asks of Kafka, of S3, of Glue and of Alertmanager (Recorder). Requests are
// translated into actions of IAM by AWS' documents, not by what the policies say. The list is deploy/privileges/recorded.json, which `make record-privileges` writes. The policies are read
// from the module's files by HCL's own parser (Policies), and held against the list (Check): what is missing, what is not used. What a component does only when something fails is in
// deploy/privileges/unrecorded.yaml, each with its reason.
package privilege
