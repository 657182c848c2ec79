# What belongs to no cell: names that lead senders to the nearest healthy cell, the bill's limits, who may do what by hand, and the trail of who did.

terraform {
  required_version = ">= 1.10.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
}

# DOMAIN: the nearest healthy cell, for tenants of no jurisdiction. JURISDICTION.DOMAIN: the nearest healthy one of it, and never one of another, also when none
# is healthy: then Route 53 answers with all of these.
resource "aws_route53_record" "ingest" {
  for_each = merge(
    { for name, c in var.cells : name => { cell = name, name = var.domain } },
    { for name, c in var.cells : "${c.jurisdiction}.${name}" => { cell = name, name = "${c.jurisdiction}.${var.domain}" } },
  )
  zone_id         = var.zone_id
  name            = each.value.name
  type            = "A"
  set_identifier  = each.value.cell
  health_check_id = var.cells[each.value.cell].health_check
  latency_routing_policy {
    region = var.cells[each.value.cell].region
  }
  alias {
    name                   = var.cells[each.value.cell].dns_name
    zone_id                = var.cells[each.value.cell].zone_id
    evaluate_target_health = true
  }
}

# --- the bill ----------------------------------------------------------------------

resource "aws_kms_key" "global" {
  description             = "pulsegrid: the trail and its topics"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

data "aws_iam_policy_document" "key" {
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
  statement {
    sid       = "Notifications"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["budgets.amazonaws.com", "costalerts.amazonaws.com", "events.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
  statement {
    sid       = "Trail"
    actions   = ["kms:GenerateDataKey", "kms:DescribeKey"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_sns_topic" "owner" {
  name              = "pulsegrid-owner"
  kms_master_key_id = aws_kms_key.global.arn
}

data "aws_iam_policy_document" "owner" {
  statement {
    sid       = "Publish"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.owner.arn]
    principals {
      type        = "Service"
      identifiers = ["budgets.amazonaws.com", "costalerts.amazonaws.com", "events.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_sns_topic_policy" "owner" {
  arn    = aws_sns_topic.owner.arn
  policy = data.aws_iam_policy_document.owner.json
}

resource "aws_sns_topic_subscription" "owner" {
  for_each  = toset(var.owner_emails)
  topic_arn = aws_sns_topic.owner.arn
  protocol  = "email"
  endpoint  = each.key
}

resource "aws_budgets_budget" "month" {
  name              = "pulsegrid"
  budget_type       = "COST"
  limit_amount      = tostring(var.monthly_budget_usd)
  limit_unit        = "USD"
  time_unit         = "MONTHLY"
  time_period_start = "2026-01-01_00:00"
  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }
    content {
      comparison_operator       = "GREATER_THAN"
      threshold                 = notification.value
      threshold_type            = "PERCENTAGE"
      notification_type         = notification.key
      subscriber_sns_topic_arns = [aws_sns_topic.owner.arn]
    }
  }
}

# --- people ----------------------------------------------------------------------------

data "aws_iam_policy_document" "trust_people" {
  for_each = { oncall = var.oncall_principals, breakglass = var.breakglass_principals }
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "AWS"
      identifiers = length(each.value) > 0 ? each.value : ["arn:${local.partition}:iam::${local.account}:root"]
    }
    condition {
      test     = "Bool"
      variable = "aws:MultiFactorAuthPresent"
      values   = ["true"]
    }
  }
}

resource "aws_iam_role" "oncall" {
  name                 = "pulsegrid-oncall"
  description          = "Looks at everything, runs pulsegrid in a cell, opens a session on a host of ClickHouse; changes nothing that Terraform made"
  assume_role_policy   = data.aws_iam_policy_document.trust_people["oncall"].json
  max_session_duration = 43200
}

data "aws_iam_policy_document" "oncall" {
  statement { # a task of the operator's definition, and of no other
    sid       = "RunOperator"
    actions   = ["ecs:RunTask"]
    resources = [for p in ["operator", "operator-b"] : "arn:${local.partition}:ecs:*:${local.account}:task-definition/pulsegrid-*-${p}:*"]
  }
  statement {
    sid       = "LendItsRoles"
    actions   = ["iam:PassRole"]
    resources = [for r in ["operator", "execution"] : "arn:${local.partition}:iam::${local.account}:role/pulsegrid-*-${r}"]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }
  statement {
    sid       = "EndTasks"
    actions   = ["ecs:StopTask"]
    resources = ["arn:${local.partition}:ecs:*:${local.account}:task/pulsegrid-*/*"]
  }
  statement { # a deployment that hangs, and services that need more tasks now than autoscaling gives
    sid       = "Services"
    actions   = ["ecs:UpdateService"]
    resources = ["arn:${local.partition}:ecs:*:${local.account}:service/pulsegrid-*/*"]
  }
  statement { # pulsegrid cell drain, undrain: from anywhere, since the cell may be the one that is ill
    sid       = "DrainCells"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["arn:${local.partition}:s3:::pulsegrid-*-registry-${local.account}/cell/*"]
  }
  statement {
    sid       = "ListDrains"
    actions   = ["s3:ListBucket"]
    resources = ["arn:${local.partition}:s3:::pulsegrid-*-registry-${local.account}"]
  }
  statement {
    sid       = "KeysOfRegistries"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = ["arn:${local.partition}:kms:*:${local.account}:key/*"]
    condition { # by way of S3 only, where the two statements above say which objects
      test     = "StringLike"
      variable = "kms:ViaService"
      values   = ["s3.*.amazonaws.com"]
    }
  }
  statement {
    sid       = "Sessions"
    actions   = ["ssm:StartSession"]
    resources = ["arn:${local.partition}:ec2:*:${local.account}:instance/*"]
    condition {
      test     = "StringLike"
      variable = "ssm:resourceTag/Name"
      values   = ["pulsegrid-*-clickhouse-*"]
    }
  }
  statement {
    sid       = "EndOwnSessions"
    actions   = ["ssm:TerminateSession", "ssm:ResumeSession"]
    resources = ["arn:${local.partition}:ssm:*:${local.account}:session/$${aws:userid}-*"]
  }
}

resource "aws_iam_role_policy" "oncall" {
  name   = "oncall"
  role   = aws_iam_role.oncall.id
  policy = data.aws_iam_policy_document.oncall.json
}

# Metrics, logs, alarms, descriptions; no secret, and no object of a bucket.
resource "aws_iam_role_policy_attachment" "oncall" {
  for_each   = toset(["job-function/ViewOnlyAccess", "CloudWatchReadOnlyAccess", "AmazonECS_ReadOnly"])
  role       = aws_iam_role.oncall.name
  policy_arn = each.key == "AmazonECS_ReadOnly" ? aws_iam_policy.ecs_read.arn : "arn:${local.partition}:iam::aws:policy/${each.key}"
}

resource "aws_iam_policy" "ecs_read" {
  name        = "pulsegrid-ecs-read"
  description = "AWS has no policy that only reads ECS"
  policy      = data.aws_iam_policy_document.ecs_read.json
}

data "aws_iam_policy_document" "ecs_read" {
  statement { # ListTasks is asked of a cluster's container instances, also where there are none: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/security_iam_id-based-policy-examples.html
    sid       = "Read"
    actions   = ["ecs:DescribeClusters", "ecs:DescribeServices", "ecs:DescribeTasks", "ecs:ListTasks", "ecs:ListServiceDeployments", "ecs:DescribeServiceDeployments"]
    resources = [for kind in ["cluster/pulsegrid-*", "service/pulsegrid-*/*", "task/pulsegrid-*/*", "container-instance/pulsegrid-*/*", "service-deployment/pulsegrid-*/*"] : "arn:${local.partition}:ecs:*:${local.account}:${kind}"]
  }
  statement { # AWS knows no resource for these
    sid       = "List"
    actions   = ["ecs:DescribeTaskDefinition", "ecs:ListServices"]
    resources = ["*"]
  }
}

# For the day when Terraform and the on-call's rights do not do. Everybody hears of it.
resource "aws_iam_role" "breakglass" {
  name                 = "pulsegrid-breakglass"
  description          = "Everything. Each use is told to the owners"
  assume_role_policy   = data.aws_iam_policy_document.trust_people["breakglass"].json
  max_session_duration = 3600
}

resource "aws_iam_role_policy_attachment" "breakglass" {
  role       = aws_iam_role.breakglass.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AdministratorAccess"
}

# STS calls of a global role are seen in us-east-1, where the root's default provider is.
resource "aws_cloudwatch_event_rule" "breakglass" {
  name        = "pulsegrid-breakglass"
  description = "Somebody took the role pulsegrid-breakglass"
  event_pattern = jsonencode({
    source        = ["aws.sts"]
    "detail-type" = ["AWS API Call via CloudTrail"]
    detail        = { eventName = ["AssumeRole"], requestParameters = { roleArn = [aws_iam_role.breakglass.arn] } }
  })
}

resource "aws_cloudwatch_event_target" "breakglass" {
  rule = aws_cloudwatch_event_rule.breakglass.name
  arn  = aws_sns_topic.owner.arn
}

# --- the trail --------------------------------------------------------------------------

resource "aws_s3_bucket" "trail" {
  bucket        = "pulsegrid-trail-${local.account}"
  force_destroy = !var.deletion_protection
}

resource "aws_s3_bucket_public_access_block" "trail" {
  bucket                  = aws_s3_bucket.trail.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "trail" {
  bucket = aws_s3_bucket.trail.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "trail" {
  bucket = aws_s3_bucket.trail.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.global.arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "trail" {
  bucket = aws_s3_bucket.trail.id
  rule {
    id     = "expire"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
    expiration {
      days = 400
    }
    noncurrent_version_expiration {
      noncurrent_days = 30
    }
  }
}

data "aws_iam_policy_document" "trail" {
  statement {
    sid       = "OnlyTLS"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.trail.arn, "${aws_s3_bucket.trail.arn}/*"]
    principals {
      type        = "AWS"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
  statement {
    sid       = "Look"
    actions   = ["s3:GetBucketAcl"]
    resources = [aws_s3_bucket.trail.arn]
    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
  statement {
    sid       = "Write"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.trail.arn}/AWSLogs/${local.account}/*"]
    principals {
      type        = "Service"
      identifiers = ["cloudtrail.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
    condition {
      test     = "StringEquals"
      variable = "s3:x-amz-acl"
      values   = ["bucket-owner-full-control"]
    }
  }
}

resource "aws_s3_bucket_policy" "trail" {
  bucket     = aws_s3_bucket.trail.id
  policy     = data.aws_iam_policy_document.trail.json
  depends_on = [aws_s3_bucket_public_access_block.trail]
}

resource "aws_cloudtrail" "all" {
  name                          = "pulsegrid"
  s3_bucket_name                = aws_s3_bucket.trail.id
  kms_key_id                    = aws_kms_key.global.arn
  is_multi_region_trail         = true
  include_global_service_events = true
  enable_log_file_validation    = true
  depends_on                    = [aws_s3_bucket_policy.trail]
}
