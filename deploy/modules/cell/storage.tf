# Buckets, and the catalog of the lake.

locals {
  buckets = {
    lake       = { versions = true }  # warehouse/: Iceberg tables, and plans of jobs
    hot        = { versions = false } # a/, b/: parts of each copy of ClickHouse
    spill      = { versions = true }  # spill/: acknowledged requests that Kafka does not have yet. Nothing here may expire
    quarantine = { versions = true }  # quarantine/: what is larger than a record
    registry   = { versions = true }  # tenants/, schemas/, cell/, clickhouse/
    replica    = { versions = true }  # copies of another cell of this jurisdiction
    logs       = { versions = false } # who read which bucket
  }
  replicated = var.replica == null ? toset([]) : toset(["lake", "registry"])
}

resource "aws_s3_bucket" "store" {
  for_each      = local.buckets
  bucket        = "${local.prefix}-${each.key}-${local.account}"
  force_destroy = !var.deletion_protection
}

resource "aws_s3_bucket_public_access_block" "store" {
  for_each                = aws_s3_bucket.store
  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "store" {
  for_each = aws_s3_bucket.store
  bucket   = each.value.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "store" {
  for_each = { for name, b in local.buckets : name => b if b.versions }
  bucket   = aws_s3_bucket.store[each.key].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  for_each = aws_s3_bucket.store
  bucket   = each.value.id
  rule {
    bucket_key_enabled = each.key != "logs"
    apply_server_side_encryption_by_default {
      sse_algorithm     = each.key == "logs" ? "AES256" : "aws:kms" # S3 delivers its own logs to no other encryption
      kms_master_key_id = each.key == "logs" ? null : aws_kms_key.cell.arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  for_each = aws_s3_bucket.store
  bucket   = each.value.id
  rule {
    id     = "leftovers"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
    noncurrent_version_expiration { # a week to notice that something was deleted that should not have been
      noncurrent_days = 7
    }
  }
  dynamic "rule" {
    for_each = each.key == "lake" ? [1] : []
    content {
      id     = "cold"
      status = "Enabled"
      filter {
        and {
          prefix                   = "warehouse/"
          object_size_greater_than = 131072 # Glacier charges for 128 KiB at least, and small files are read at every query
        }
      }
      transition {
        days          = var.lake_cold_days
        storage_class = "GLACIER_IR"
      }
    }
  }
  dynamic "rule" {
    for_each = lookup({ quarantine = [var.quarantine_days], logs = [90] }, each.key, [])
    content {
      id     = "expire"
      status = "Enabled"
      filter {}
      expiration {
        days = rule.value
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.store]
}

data "aws_iam_policy_document" "bucket" {
  for_each = aws_s3_bucket.store
  statement {
    sid       = "OnlyTLS"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.arn, "${each.value.arn}/*"]
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
  statement { # a right that somebody gives to another account by mistake is worth nothing
    sid       = "OnlyThisAccount"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.arn, "${each.value.arn}/*"]
    principals {
      type        = "AWS"
      identifiers = ["*"]
    }
    condition {
      test     = "StringNotEquals"
      variable = "aws:PrincipalAccount"
      values   = [local.account]
    }
    condition {
      test     = "Bool"
      variable = "aws:PrincipalIsAWSService"
      values   = ["false"]
    }
  }
  dynamic "statement" {
    for_each = each.key == "logs" ? [1] : []
    content {
      sid       = "AccessLogs"
      actions   = ["s3:PutObject"]
      resources = ["${each.value.arn}/*"]
      principals {
        type        = "Service"
        identifiers = ["logging.s3.amazonaws.com"]
      }
      condition {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [local.account]
      }
    }
  }
}

resource "aws_s3_bucket_policy" "store" {
  for_each   = aws_s3_bucket.store
  bucket     = each.value.id
  policy     = data.aws_iam_policy_document.bucket[each.key].json
  depends_on = [aws_s3_bucket_public_access_block.store]
}

# Of the buckets that hold data of people. hot would be millions of lines an hour of the same host.
resource "aws_s3_bucket_logging" "store" {
  for_each      = toset(["lake", "quarantine", "registry", "replica"])
  bucket        = aws_s3_bucket.store[each.key].id
  target_bucket = aws_s3_bucket.store["logs"].id
  target_prefix = "${each.key}/"
  depends_on    = [aws_s3_bucket_policy.store]
}

resource "aws_s3_bucket_replication_configuration" "store" {
  for_each = local.replicated
  bucket   = aws_s3_bucket.store[each.key].id
  role     = aws_iam_role.replication[0].arn
  rule {
    id     = each.key
    status = "Enabled"
    filter {}
    source_selection_criteria {
      sse_kms_encrypted_objects {
        status = "Enabled"
      }
    }
    delete_marker_replication { # what is deleted here stays there: that is what the copy is for. An erasure must be done there, too
      status = "Disabled"
    }
    destination {
      bucket        = var.replica.bucket_arn
      storage_class = "STANDARD_IA"
      encryption_configuration {
        replica_kms_key_id = var.replica.kms_key_arn
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.store]
}

# One cell a region has the database `pulsegrid`. Its tables are the aggregators'.
resource "aws_glue_catalog_database" "lake" {
  name         = "pulsegrid"
  location_uri = "s3://${aws_s3_bucket.store["lake"].bucket}/warehouse/pulsegrid.db"
  parameters   = { database_type = "ICEBERG" } # iceberg-go takes no other for a namespace
}

resource "aws_glue_data_catalog_encryption_settings" "lake" {
  data_catalog_encryption_settings {
    connection_password_encryption {
      aws_kms_key_id                       = aws_kms_key.cell.arn
      return_connection_password_encrypted = true
    }
    encryption_at_rest {
      catalog_encryption_mode = "SSE-KMS"
      sse_aws_kms_key_id      = aws_kms_key.cell.arn
    }
  }
}
