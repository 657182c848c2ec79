# The fleet: three cells, and what leads senders to them. One root, because the two cells of the jurisdiction eu keep each other's copies and the names are of all cells.
# What differs between cells is a map by the cell's name, so a change is rolled out cell by cell: docs/deploy.md.

terraform {
  required_version = ">= 1.10.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  backend "s3" { # bucket and region: -backend-config, as docs/deploy.md has it
    key          = "pulsegrid/prod.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

locals {
  tags = merge({ project = "pulsegrid", environment = "prod" }, var.tags)
}

provider "aws" { # home of what has no region: DNS, IAM, the budget, events of STS
  region = "us-east-1"
  default_tags {
    tags = merge(local.tags, { cell = "us-1" })
  }
}

provider "aws" {
  alias  = "eu_1"
  region = "eu-central-1"
  default_tags {
    tags = merge(local.tags, { cell = "eu-1" })
  }
}

provider "aws" {
  alias  = "eu_2"
  region = "eu-west-1"
  default_tags {
    tags = merge(local.tags, { cell = "eu-2" })
  }
}

# The name that agents send to. Its parent must lead here (output name_servers) before certificates can be had.
resource "aws_route53_zone" "ingest" {
  name          = var.domain
  force_destroy = !var.deletion_protection
}

module "eu_1" {
  source              = "../../modules/cell"
  providers           = { aws = aws.eu_1 }
  cell                = "eu-1"
  jurisdiction        = "eu"
  vpc_cidr            = "10.1.0.0/16"
  zones               = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  domain              = var.domain
  zone_id             = aws_route53_zone.ingest.zone_id
  images              = var.images["eu-1"]
  sizes               = lookup(var.sizes, "eu-1", {})
  kafka               = lookup(var.kafka, "eu-1", {})
  clickhouse          = lookup(var.clickhouse, "eu-1", {})
  temporal            = lookup(var.temporal, "eu-1", null)
  history_buckets     = lookup(var.history_buckets, "eu-1", [])
  replica             = module.eu_2.replica
  pager_emails        = var.pager_emails
  deletion_protection = var.deletion_protection
}

module "eu_2" {
  source              = "../../modules/cell"
  providers           = { aws = aws.eu_2 }
  cell                = "eu-2"
  jurisdiction        = "eu"
  vpc_cidr            = "10.2.0.0/16"
  zones               = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
  domain              = var.domain
  zone_id             = aws_route53_zone.ingest.zone_id
  images              = var.images["eu-2"]
  sizes               = lookup(var.sizes, "eu-2", {})
  kafka               = lookup(var.kafka, "eu-2", {})
  clickhouse          = lookup(var.clickhouse, "eu-2", {})
  temporal            = lookup(var.temporal, "eu-2", null)
  history_buckets     = lookup(var.history_buckets, "eu-2", [])
  replica             = module.eu_1.replica
  pager_emails        = var.pager_emails
  deletion_protection = var.deletion_protection
}

# The only cell of its jurisdiction: its lake is copied nowhere, and nothing takes its tenants while it is away.
module "us_1" {
  source              = "../../modules/cell"
  cell                = "us-1"
  jurisdiction        = "us"
  vpc_cidr            = "10.3.0.0/16"
  zones               = ["us-east-1a", "us-east-1b", "us-east-1c"]
  domain              = var.domain
  zone_id             = aws_route53_zone.ingest.zone_id
  images              = var.images["us-1"]
  sizes               = lookup(var.sizes, "us-1", {})
  kafka               = lookup(var.kafka, "us-1", {})
  clickhouse          = lookup(var.clickhouse, "us-1", {})
  temporal            = lookup(var.temporal, "us-1", null)
  history_buckets     = lookup(var.history_buckets, "us-1", [])
  pager_emails        = var.pager_emails
  deletion_protection = var.deletion_protection
}

module "global" {
  source                = "../../modules/global"
  domain                = var.domain
  zone_id               = aws_route53_zone.ingest.zone_id
  cells                 = { eu-1 = module.eu_1.edge, eu-2 = module.eu_2.edge, us-1 = module.us_1.edge }
  monthly_budget_usd    = var.monthly_budget_usd
  owner_emails          = var.owner_emails
  oncall_principals     = var.oncall_principals
  breakglass_principals = var.breakglass_principals
  deletion_protection   = var.deletion_protection
}

output "name_servers" {
  description = "NS records of `domain` that its parent zone must have."
  value       = aws_route53_zone.ingest.name_servers
}

output "cells" {
  description = "Of each cell: where agents send, its registry, its repositories, and what deploy/task needs."
  value = { for name, c in { eu-1 = module.eu_1, eu-2 = module.eu_2, us-1 = module.us_1 } : name => {
    endpoint         = c.endpoint
    registry         = c.registry
    repositories     = c.repositories
    clickhouse_hosts = c.clickhouse_hosts
    topics           = c.topics
    task             = c.task
  } }
}
