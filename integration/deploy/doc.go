// Package deploy tries deploy/ without an account: Terraform, unchanged, against moto with its gaps mended (deploy/fake), by the commands of docs/deploy.md.
//
// What it shows and what it cannot is in docs/deploy.md. All but the reading of that page wants Terraform, its AWS provider and minutes, and
// has the build tag deploy: `make test-deploy`.
package deploy
