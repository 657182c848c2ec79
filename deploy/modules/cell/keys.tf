# One key for everything that the cell keeps, and the secrets that it is given. Terraform makes secrets empty, so no state file holds one:
# docs/deploy.md has the commands that fill them.

data "aws_iam_policy_document" "key" {
  statement { # without it nobody could ever change the key's policy again; IAM policies decide who uses it
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
  statement {
    sid       = "Logs"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["logs.${local.region}.amazonaws.com"]
    }
    condition {
      test     = "ArnLike"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values   = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/pulsegrid/${var.cell}/*"]
    }
  }
  statement { # an alarm that may not use the topic's key is an alarm that nobody hears
    sid       = "Notifications"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com", "aps.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_kms_key" "cell" {
  description             = "${local.prefix}: buckets, Kafka, logs, secrets, disks"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

resource "aws_kms_alias" "cell" {
  name          = "alias/${local.prefix}"
  target_key_id = aws_kms_key.cell.key_id
}

locals {
  secrets = {
    "internal-tls" = "JSON {cert, key, ca}: PEM of the certificate inside the cell (gateways, ClickHouse) and of its authority"
    "clickhouse"   = "JSON {writer, alerts, probe, reader}: a password for each user of ClickHouse"
    "probe"        = "The API key of the tenant probe"
    "temporal"     = "The API key of Temporal"
  }
}

resource "aws_secretsmanager_secret" "cell" {
  for_each                = local.secrets
  name                    = "${local.prefix}/${each.key}"
  description             = each.value
  kms_key_id              = aws_kms_key.cell.arn
  recovery_window_in_days = var.deletion_protection ? 30 : 0
}

resource "aws_secretsmanager_secret_policy" "cell" {
  for_each   = aws_secretsmanager_secret.cell
  secret_arn = each.value.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyThisAccount"
      Effect    = "Deny"
      Principal = "*"
      Action    = "secretsmanager:*"
      Resource  = "*"
      Condition = { StringNotEquals = { "aws:PrincipalAccount" = local.account } }
    }]
  })
}
