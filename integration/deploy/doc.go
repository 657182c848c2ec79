// Package deploy tries deploy/ without an account: Terraform, unchanged, against moto with its gaps mended (deploy/fake), by the commands of docs/deploy.md.
//
// What it shows and what it cannot is in docs/deploy.md. Where there is no Terraform, or its AWS provider cannot be had, the tests are skipped and say so.
package deploy
