# One network for the cell, three zones. Edge subnets have the load balancer and what must reach the internet (probe, worker); inner subnets have everything
# else and reach AWS by endpoints only: there is no NAT, so what holds data has no way out but S3 and AWS's own APIs.

data "aws_region" "current" {}
data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  region    = data.aws_region.current.name
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  prefix    = "pulsegrid-${var.cell}"
  zones     = { for i, zone in var.zones : zone => i }

  jurisdiction_regions = { eu = "eu-", us = "us-" }
  # Interface endpoints cost 0.011 USD an hour and zone each: only those that something in an inner subnet calls.
  endpoints = toset(["aps-workspaces", "ec2messages", "ecr.api", "ecr.dkr", "glue", "kms", "logs", "secretsmanager", "ssm", "ssmmessages", "sts"])
}

resource "aws_vpc" "cell" {
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = local.prefix }
  lifecycle {
    precondition {
      condition     = startswith(local.region, local.jurisdiction_regions[var.jurisdiction])
      error_message = "Cell ${var.cell} is of jurisdiction ${var.jurisdiction}, and its provider's region is ${local.region}: want a region that begins with ${local.jurisdiction_regions[var.jurisdiction]}."
    }
    precondition {
      condition     = alltrue([for zone in var.zones : startswith(zone, local.region)])
      error_message = "zones ${join(", ", var.zones)} are not of the provider's region ${local.region}."
    }
  }
}

# Whoever forgets to name a security group gets one that lets nothing through.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.cell.id
}

resource "aws_internet_gateway" "cell" {
  vpc_id = aws_vpc.cell.id
  tags   = { Name = local.prefix }
}

# Of 64 parts of the network the first three are edge subnets; of 16 parts the second to fourth are inner ones.
resource "aws_subnet" "edge" {
  for_each          = local.zones
  vpc_id            = aws_vpc.cell.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.vpc_cidr, 6, each.value)
  tags              = { Name = "${local.prefix}-edge-${each.key}" }
}

resource "aws_subnet" "inner" {
  for_each          = local.zones
  vpc_id            = aws_vpc.cell.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, each.value + 1)
  tags              = { Name = "${local.prefix}-inner-${each.key}" }
}

resource "aws_route_table" "edge" {
  vpc_id = aws_vpc.cell.id
  tags   = { Name = "${local.prefix}-edge" }
}

resource "aws_route" "edge_out" {
  route_table_id         = aws_route_table.edge.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.cell.id
}

resource "aws_route_table_association" "edge" {
  for_each       = aws_subnet.edge
  subnet_id      = each.value.id
  route_table_id = aws_route_table.edge.id
}

resource "aws_route_table" "inner" {
  vpc_id = aws_vpc.cell.id
  tags   = { Name = "${local.prefix}-inner" }
}

resource "aws_route_table_association" "inner" {
  for_each       = aws_subnet.inner
  subnet_id      = each.value.id
  route_table_id = aws_route_table.inner.id
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.cell.id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.inner.id, aws_route_table.edge.id]
  tags              = { Name = "${local.prefix}-s3" }
}

resource "aws_vpc_endpoint" "service" {
  for_each            = local.endpoints
  vpc_id              = aws_vpc.cell.id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for s in aws_subnet.inner : s.id]
  security_group_ids  = [aws_security_group.endpoints.id]
  tags                = { Name = "${local.prefix}-${each.key}" }
}

resource "aws_flow_log" "refused" {
  vpc_id               = aws_vpc.cell.id
  traffic_type         = "REJECT"
  log_destination_type = "cloud-watch-logs"
  log_destination      = aws_cloudwatch_log_group.part["flow"].arn
  iam_role_arn         = aws_iam_role.flow.arn
  tags                 = { Name = local.prefix }
}

# --- who reaches whom --------------------------------------------------------------
# Rules stand inside their groups, not in resources of their own: a rule that somebody adds by hand is then a change that the next plan shows.

data "aws_ec2_managed_prefix_list" "s3" {
  name = "com.amazonaws.${local.region}.s3"
}

# Route 53's health checkers, the only ones that may ask whether the cell wants senders.
data "aws_ec2_managed_prefix_list" "health_checkers" {
  name = "com.amazonaws.${local.region}.route53-healthchecks"
}

resource "aws_security_group" "endpoints" {
  name        = "${local.prefix}-endpoints"
  description = "AWS services inside the cell"
  vpc_id      = aws_vpc.cell.id
  ingress {
    description = "HTTPS from the cell"
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = [var.vpc_cidr]
  }
}

resource "aws_security_group" "edge" {
  name        = "${local.prefix}-edge"
  description = "Load balancer: OTLP in, to the gateways"
  vpc_id      = aws_vpc.cell.id
  dynamic "ingress" {
    for_each = local.listeners
    content {
      description = "OTLP ${ingress.key}"
      protocol    = "tcp"
      from_port   = ingress.value.port
      to_port     = ingress.value.port
      cidr_blocks = ["0.0.0.0/0"]
    }
  }
  ingress {
    description     = "Health of the cell, for DNS"
    protocol        = "tcp"
    from_port       = 13135
    to_port         = 13135
    prefix_list_ids = [data.aws_ec2_managed_prefix_list.health_checkers.id]
  }
  egress {
    description = "Gateways: OTLP"
    protocol    = "tcp"
    from_port   = 4317
    to_port     = 4318
    cidr_blocks = [for s in aws_subnet.inner : s.cidr_block]
  }
  egress {
    description = "Gateways: health"
    protocol    = "tcp"
    from_port   = 13133
    to_port     = 13135
    cidr_blocks = [for s in aws_subnet.inner : s.cidr_block]
  }
}

# Of tasks in inner subnets. Only the gateway is called by somebody.
resource "aws_security_group" "task" {
  for_each    = local.task_ids
  name        = "${local.prefix}-${each.key}"
  description = "Tasks: ${each.key}"
  vpc_id      = aws_vpc.cell.id

  dynamic "ingress" {
    for_each = each.key == "gateway" ? { OTLP = [4317, 4318], health = [13133, 13135] } : {}
    content {
      description     = "${ingress.key} from the load balancer"
      protocol        = "tcp"
      from_port       = ingress.value[0]
      to_port         = ingress.value[1]
      security_groups = [aws_security_group.edge.id]
    }
  }
  dynamic "egress" {
    for_each = { "AWS services" = 443, ClickHouse = 8443, Kafka = 9098 }
    content {
      description = egress.key
      protocol    = "tcp"
      from_port   = egress.value
      to_port     = egress.value
      cidr_blocks = [var.vpc_cidr]
    }
  }
  egress {
    description     = "S3"
    protocol        = "tcp"
    from_port       = 443
    to_port         = 443
    prefix_list_ids = [data.aws_ec2_managed_prefix_list.s3.id]
  }
  dynamic "egress" { # metrics of brokers and of ClickHouse
    for_each = each.key == "scraper" ? { "Metrics of Kafka" = [11001, 11002], "Metrics of ClickHouse" = [9363, 9363] } : {}
    content {
      description = egress.key
      protocol    = "tcp"
      from_port   = egress.value[0]
      to_port     = egress.value[1]
      cidr_blocks = [var.vpc_cidr]
    }
  }
  dynamic "egress" { # a probe sends as agents do, by the cell's public name; Temporal is outside
    for_each = contains(local.outward, each.key) ? { OTLP = [4317, 4318], "HTTPS" = [443, 443], Temporal = [7233, 7233] } : {}
    content {
      description = "${egress.key} outside"
      protocol    = "tcp"
      from_port   = egress.value[0]
      to_port     = egress.value[1]
      cidr_blocks = ["0.0.0.0/0"]
    }
  }
}

resource "aws_security_group" "kafka" {
  name        = "${local.prefix}-kafka"
  description = "Brokers: by IAM only"
  vpc_id      = aws_vpc.cell.id
  ingress {
    description     = "Clients with a role"
    protocol        = "tcp"
    from_port       = 9098
    to_port         = 9098
    security_groups = [for id in ["gateway", "aggregator", "worker", "operator", "alerts"] : aws_security_group.task[id].id]
  }
  ingress {
    description     = "Metrics"
    protocol        = "tcp"
    from_port       = 11001
    to_port         = 11002
    security_groups = [aws_security_group.task["scraper"].id]
  }
}

resource "aws_security_group" "clickhouse" {
  name        = "${local.prefix}-clickhouse"
  description = "Hot store"
  vpc_id      = aws_vpc.cell.id
  ingress {
    description     = "HTTPS"
    protocol        = "tcp"
    from_port       = 8443
    to_port         = 8443
    security_groups = [for id in ["aggregator", "worker", "operator", "alerts", "probe"] : aws_security_group.task[id].id]
  }
  ingress {
    description     = "Metrics"
    protocol        = "tcp"
    from_port       = 9363
    to_port         = 9363
    security_groups = [aws_security_group.task["scraper"].id]
  }
  egress {
    description = "AWS services"
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = [var.vpc_cidr]
  }
  egress {
    description     = "S3, with the packages of Amazon Linux"
    protocol        = "tcp"
    from_port       = 443
    to_port         = 443
    prefix_list_ids = [data.aws_ec2_managed_prefix_list.s3.id]
  }
}
