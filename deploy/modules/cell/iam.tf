# Who may do what. One document for each role; nothing here has a wildcard as action, and a wildcard as resource only where AWS knows no other.
#
#   gateway     agents -> Kafka, spill, quarantined bodies; reads tenants, schemas and the cell's state
#   aggregator  Kafka -> lake (Glue, S3); ClickHouse asks for a password and not for a role
#   worker      jobs: everything that a job may read or put right
#   operator    `pulsegrid` by hand: a worker that also drains the cell
#   probe       reads the lake as any reader would
#   alerts      asks Kafka what is complete, tells Alertmanager
#   scraper     metrics of Kafka and ClickHouse
#   clickhouse  the hosts of the hot store: their own prefix of the bucket
#
# The topics' rights follow https://docs.aws.amazon.com/msk/latest/developerguide/iam-access-control.html.

locals {
  # arn:...:cluster/NAME/UUID -> arn:...:topic/NAME/UUID
  kafka_topic = replace(aws_msk_cluster.cell.arn, ":cluster/", ":topic/")
  kafka_group = replace(aws_msk_cluster.cell.arn, ":cluster/", ":group/")
  kafka_trans = replace(aws_msk_cluster.cell.arn, ":cluster/", ":transactional-id/")
  event_topics = [
    "${local.kafka_topic}/otlp.*",
    "${local.kafka_topic}/quarantine.*",
  ]
  glue_arn = "arn:${local.partition}:glue:${local.region}:${local.account}"
  lake_tables = [
    "${local.glue_arn}:catalog",
    aws_glue_catalog_database.lake.arn,
    "${local.glue_arn}:table/${aws_glue_catalog_database.lake.name}/*",
  ]
  bucket   = { for name, b in aws_s3_bucket.store : name => b.arn }
  task_ids = toset(["gateway", "aggregator", "worker", "operator", "probe", "alerts", "scraper"])
}

# --- trust -----------------------------------------------------------------

data "aws_iam_policy_document" "trust_tasks" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
    condition { # tasks of this account and region only: nobody else's ECS may lend itself the role
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${local.partition}:ecs:${local.region}:${local.account}:*"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

# EC2 and flow logs set no source in the request, or not always: a condition on it would lock them out.
data "aws_iam_policy_document" "trust_service" {
  for_each = toset(["ec2", "vpc-flow-logs", "s3"])
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["${each.key}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "task" {
  for_each           = local.task_ids
  name               = "${local.prefix}-${each.key}"
  description        = "PulseGrid ${each.key} of cell ${var.cell}"
  assume_role_policy = data.aws_iam_policy_document.trust_tasks.json
}

resource "aws_iam_role_policy" "task" {
  for_each = {
    gateway    = data.aws_iam_policy_document.gateway.json
    aggregator = data.aws_iam_policy_document.aggregator.json
    worker     = data.aws_iam_policy_document.worker.json
    operator   = data.aws_iam_policy_document.operator.json
    probe      = data.aws_iam_policy_document.probe.json
    alerts     = data.aws_iam_policy_document.alerts.json
    scraper    = data.aws_iam_policy_document.metrics.json
  }
  name   = each.key
  role   = aws_iam_role.task[each.key].id
  policy = each.value
}

# --- metrics: of every task that has a metrics sidecar -----------------------

data "aws_iam_policy_document" "metrics" {
  statement {
    sid       = "WriteMetrics"
    actions   = ["aps:RemoteWrite"]
    resources = [aws_prometheus_workspace.cell.arn]
  }
}

# --- gateway -----------------------------------------------------------------

data "aws_iam_policy_document" "gateway" {
  source_policy_documents = [data.aws_iam_policy_document.metrics.json]
  statement {
    sid       = "Connect"
    actions   = ["kafka-cluster:Connect", "kafka-cluster:DescribeCluster", "kafka-cluster:WriteDataIdempotently"]
    resources = [aws_msk_cluster.cell.arn]
  }
  statement { # topics that are missing are made by the gateway, and verified against its configuration
    sid       = "Produce"
    actions   = ["kafka-cluster:CreateTopic", "kafka-cluster:DescribeTopic", "kafka-cluster:DescribeTopicDynamicConfiguration", "kafka-cluster:WriteData"]
    resources = local.event_topics
  }
  statement {
    sid       = "Spill"
    actions   = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${local.bucket["spill"]}/spill/*"]
  }
  statement {
    sid       = "ListSpill"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket["spill"]]
  }
  statement {
    sid       = "KeepOversized"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${local.bucket["quarantine"]}/quarantine/*"]
  }
  statement {
    sid       = "ReadRegistry"
    actions   = ["s3:GetObject"]
    resources = [for prefix in ["tenants", "schemas", "cell"] : "${local.bucket["registry"]}/${prefix}/*"]
  }
  statement {
    sid       = "ListRegistry"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket["registry"]]
  }
  statement {
    sid       = "Keys"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [aws_kms_key.cell.arn]
  }
}

# --- aggregator --------------------------------------------------------------

data "aws_iam_policy_document" "aggregator" {
  source_policy_documents = [data.aws_iam_policy_document.metrics.json]
  statement {
    sid       = "Connect"
    actions   = ["kafka-cluster:Connect", "kafka-cluster:DescribeCluster", "kafka-cluster:WriteDataIdempotently"]
    resources = [aws_msk_cluster.cell.arn]
  }
  statement {
    sid       = "Consume"
    actions   = ["kafka-cluster:DescribeTopic", "kafka-cluster:ReadData"]
    resources = local.event_topics
  }
  statement { # a record that a store refuses goes there, and nowhere else
    sid       = "Quarantine"
    actions   = ["kafka-cluster:WriteData"]
    resources = ["${local.kafka_topic}/quarantine.*"]
  }
  statement {
    sid       = "Groups"
    actions   = ["kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"]
    resources = ["${local.kafka_group}/pulsegrid-*"]
  }
  statement { # DeleteObject: of files that no snapshot has, after a commit that failed
    sid       = "WriteLake"
    actions   = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${local.bucket["lake"]}/warehouse/*"]
  }
  statement {
    sid       = "ListLake"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket["lake"]]
  }
  statement {
    sid       = "Catalog"
    actions   = ["glue:GetDatabase", "glue:GetTable", "glue:CreateTable", "glue:UpdateTable"]
    resources = local.lake_tables
  }
  statement {
    sid       = "ReadTenants"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket["registry"]}/tenants/*"]
  }
  statement {
    sid       = "ListRegistry"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket["registry"]]
  }
  statement {
    sid       = "Keys"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [aws_kms_key.cell.arn]
  }
}

# --- worker ------------------------------------------------------------------

data "aws_iam_policy_document" "history" {
  statement {
    sid       = "ReadHistory"
    actions   = ["s3:GetObject"]
    resources = [for b in var.history_buckets : "${b}/*"]
  }
  statement {
    sid       = "ListHistory"
    actions   = ["s3:ListBucket"]
    resources = var.history_buckets
  }
}

data "aws_iam_policy_document" "worker" {
  source_policy_documents = concat([data.aws_iam_policy_document.metrics.json], length(var.history_buckets) > 0 ? [data.aws_iam_policy_document.history.json] : [])
  statement {
    sid       = "Connect"
    actions   = ["kafka-cluster:Connect", "kafka-cluster:DescribeCluster"]
    resources = [aws_msk_cluster.cell.arn]
  }
  statement { # audits read the log; replays and repairs write into it, in transactions
    sid       = "Topics"
    actions   = ["kafka-cluster:CreateTopic", "kafka-cluster:DescribeTopic", "kafka-cluster:DescribeTopicDynamicConfiguration", "kafka-cluster:ReadData", "kafka-cluster:WriteData"]
    resources = concat(local.event_topics, ["${local.kafka_topic}/replays.*"])
  }
  statement { # what the aggregators have finished
    sid       = "Groups"
    actions   = ["kafka-cluster:DescribeGroup"]
    resources = ["${local.kafka_group}/pulsegrid*"]
  }
  statement { # a replay into a topic writes copies and positions in one transaction
    sid       = "Transactions"
    actions   = ["kafka-cluster:AlterTransactionalId", "kafka-cluster:DescribeTransactionalId"]
    resources = ["${local.kafka_trans}/pulsegrid*"]
  }
  statement { # with plans and progress of jobs
    sid       = "Objects"
    actions   = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${local.bucket["lake"]}/warehouse/*"]
  }
  statement {
    sid       = "ListObjects"
    actions   = ["s3:ListBucket"]
    resources = [for name in ["lake", "spill", "registry"] : local.bucket[name]]
  }
  statement {
    sid       = "ReadRegistry"
    actions   = ["s3:GetObject"]
    resources = [for prefix in ["tenants", "schemas"] : "${local.bucket["registry"]}/${prefix}/*"]
  }
  statement { # a rollout of schemas is files in the registry
    sid       = "RollOutSchemas"
    actions   = ["s3:PutObject"]
    resources = ["${local.bucket["registry"]}/schemas/*"]
  }
  statement {
    sid       = "Catalog"
    actions   = ["glue:GetDatabase", "glue:GetTable", "glue:GetTables", "glue:CreateTable", "glue:UpdateTable"]
    resources = local.lake_tables
  }
  statement {
    sid       = "Keys"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [aws_kms_key.cell.arn]
  }
}

# --- operator ----------------------------------------------------------------

data "aws_iam_policy_document" "operator" {
  source_policy_documents = [data.aws_iam_policy_document.worker.json]
  statement { # pulsegrid cell drain, cell undrain
    sid       = "DrainCell"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.bucket["registry"]}/cell/*"]
  }
  statement { # pulsegrid cell inventory asks whether the warehouse itself is an object, and would take a refusal for a place that cannot be read
    sid       = "Inventory"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket["lake"]}/warehouse"]
  }
}

# --- probe -------------------------------------------------------------------

data "aws_iam_policy_document" "probe" {
  source_policy_documents = [data.aws_iam_policy_document.metrics.json]
  statement {
    sid       = "ReadLake"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket["lake"]}/warehouse/*"]
  }
  statement {
    sid       = "Catalog"
    actions   = ["glue:GetTable"]
    resources = local.lake_tables
  }
  statement {
    sid       = "Keys"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.cell.arn]
  }
}

# --- alerts ------------------------------------------------------------------

data "aws_iam_policy_document" "alerts" {
  source_policy_documents = [data.aws_iam_policy_document.metrics.json]
  statement {
    sid       = "Connect"
    actions   = ["kafka-cluster:Connect", "kafka-cluster:DescribeCluster"]
    resources = [aws_msk_cluster.cell.arn]
  }
  statement { # how far the log goes, and how far the group is: no record is read
    sid       = "Positions"
    actions   = ["kafka-cluster:DescribeTopic"]
    resources = ["${local.kafka_topic}/otlp.*"]
  }
  statement {
    sid       = "Groups"
    actions   = ["kafka-cluster:DescribeGroup"]
    resources = ["${local.kafka_group}/pulsegrid-hot*"]
  }
  statement {
    sid       = "TellAlertmanager"
    actions   = ["aps:CreateAlertManagerAlerts"]
    resources = [aws_prometheus_workspace.cell.arn]
  }
}

# --- clickhouse --------------------------------------------------------------

resource "aws_iam_role" "clickhouse" {
  for_each           = local.hosts
  name               = "${local.prefix}-clickhouse-${each.key}"
  description        = "PulseGrid ClickHouse copy ${each.key} of cell ${var.cell}"
  assume_role_policy = data.aws_iam_policy_document.trust_service["ec2"].json
}

data "aws_iam_policy_document" "clickhouse" {
  for_each = local.hosts
  statement { # each copy has a prefix of its own, so one that errs cannot harm the other
    sid       = "Parts"
    actions   = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${local.bucket["hot"]}/${each.key}/*"]
  }
  statement {
    sid       = "ListParts"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket["hot"]]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${each.key}/*"]
    }
  }
  statement {
    sid       = "ReadConfig"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket["registry"]}/clickhouse/*"]
  }
  statement {
    sid       = "ReadSecrets"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [for name in ["clickhouse", "internal-tls"] : aws_secretsmanager_secret.cell[name].arn]
  }
  statement {
    sid       = "Keys"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [aws_kms_key.cell.arn]
  }
  statement { # AWS knows no resource for the login
    sid       = "LoginToRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
  statement {
    sid       = "PullImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.image["clickhouse"].arn]
  }
  statement {
    sid       = "Logs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.part["clickhouse"].arn}:*"]
  }
}

resource "aws_iam_role_policy" "clickhouse" {
  for_each = local.hosts
  name     = "clickhouse"
  role     = aws_iam_role.clickhouse[each.key].id
  policy   = data.aws_iam_policy_document.clickhouse[each.key].json
}

# A shell without SSH: Session Manager, whose sessions CloudTrail has.
resource "aws_iam_role_policy_attachment" "clickhouse_sessions" {
  for_each   = local.hosts
  role       = aws_iam_role.clickhouse[each.key].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_instance_profile" "clickhouse" {
  for_each = local.hosts
  name     = "${local.prefix}-clickhouse-${each.key}"
  role     = aws_iam_role.clickhouse[each.key].name
}

# --- execution: what ECS itself needs to start a task --------------------------

resource "aws_iam_role" "execution" {
  name               = "${local.prefix}-execution"
  description        = "ECS starts PulseGrid's tasks of cell ${var.cell}: images, settings, secrets, logs"
  assume_role_policy = data.aws_iam_policy_document.trust_tasks.json
}

data "aws_iam_policy_document" "execution" {
  statement { # AWS knows no resource for the login
    sid       = "LoginToRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
  statement {
    sid       = "PullImages"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [for r in aws_ecr_repository.image : r.arn]
  }
  statement {
    sid       = "ReadSecrets"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [for s in aws_secretsmanager_secret.cell : s.arn]
  }
  statement {
    sid       = "Keys"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.cell.arn]
  }
  statement {
    sid       = "Logs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = [for g in aws_cloudwatch_log_group.part : "${g.arn}:*"]
  }
}

resource "aws_iam_role_policy" "execution" {
  name   = "execution"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

# --- flow logs -----------------------------------------------------------------

resource "aws_iam_role" "flow" {
  name               = "${local.prefix}-flow"
  description        = "Flow logs of cell ${var.cell}"
  assume_role_policy = data.aws_iam_policy_document.trust_service["vpc-flow-logs"].json
}

data "aws_iam_policy_document" "flow" {
  statement {
    sid       = "Logs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
    resources = ["${aws_cloudwatch_log_group.part["flow"].arn}:*"]
  }
}

resource "aws_iam_role_policy" "flow" {
  name   = "flow"
  role   = aws_iam_role.flow.id
  policy = data.aws_iam_policy_document.flow.json
}

# --- replication ----------------------------------------------------------------

resource "aws_iam_role" "replication" {
  count              = var.replica == null ? 0 : 1
  name               = "${local.prefix}-replication"
  description        = "S3 copies the lake and the registry of cell ${var.cell} to another cell of its jurisdiction"
  assume_role_policy = data.aws_iam_policy_document.trust_service["s3"].json
}

data "aws_iam_policy_document" "replication" {
  count = var.replica == null ? 0 : 1
  statement {
    sid       = "Source"
    actions   = ["s3:GetReplicationConfiguration", "s3:ListBucket"]
    resources = [for name in local.replicated : local.bucket[name]]
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging"]
    resources = [for name in local.replicated : "${local.bucket[name]}/*"]
  }
  statement {
    sid       = "Write"
    actions   = ["s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"]
    resources = ["${var.replica.bucket_arn}/*"]
  }
  statement {
    sid       = "Decrypt"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.cell.arn]
  }
  statement {
    sid       = "Encrypt"
    actions   = ["kms:GenerateDataKey", "kms:Encrypt"]
    resources = [var.replica.kms_key_arn]
  }
}

resource "aws_iam_role_policy" "replication" {
  count  = var.replica == null ? 0 : 1
  name   = "replication"
  role   = aws_iam_role.replication[0].id
  policy = data.aws_iam_policy_document.replication[0].json
}
