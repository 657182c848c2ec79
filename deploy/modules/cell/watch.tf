# What watches the cell: Managed Prometheus with the rules of observability/, its Alertmanager, alarms of CloudWatch on AWS's own parts, and two topics.

locals {
  obs         = "${path.module}/../../../observability"
  rule_files  = toset(concat([for f in fileset(local.obs, "rules/*.yaml") : f], [for f in fileset(local.obs, "alerts/*.yaml") : f]))
  remote_read = aws_prometheus_workspace.cell.prometheus_endpoint

  sidecar_config = { for name, p in local.parts : name => templatefile("${path.module}/metrics.yaml.tftpl", {
    region  = local.region
    remote  = "${local.remote_read}api/v1/remote_write"
    per_job = true
    scrapes = [{ job = p.job, targets = ["127.0.0.1:${p.port}"], labels = { cell = var.cell, part = name } }]
  }) if p.port != 0 }

  scraper_config = templatefile("${path.module}/metrics.yaml.tftpl", {
    region  = local.region
    remote  = "${local.remote_read}api/v1/remote_write"
    per_job = false
    scrapes = concat([
      { job = "kafka", targets = [for b in local.broker_names : "${b}:11001"], labels = { cell = var.cell } },
      { job = "node", targets = [for b in local.broker_names : "${b}:11002"], labels = { cell = var.cell } },
      ], length(local.hosts) == 0 ? [] : [
      { job = "clickhouse", targets = [for copy in keys(local.hosts) : "${local.clickhouse_host[copy]}:9363"], labels = { cell = var.cell } },
    ])
  })

  # Routes and inhibitions are those of observability/alertmanager.yaml; who hears is SNS, the only receiver besides PagerDuty that AWS's Alertmanager has.
  alertmanager = merge(yamldecode(file("${local.obs}/alertmanager.yaml")), {
    receivers = [for receiver, topic in { pager = "page", tickets = "ticket" } : {
      name = receiver
      sns_configs = [{
        topic_arn = aws_sns_topic.alert[topic].arn
        sigv4     = { region = local.region }
        subject   = "${var.cell}: {{ .CommonLabels.alertname }}"
        message   = "{{ range .Alerts }}{{ .Status }} {{ .Labels.alertname }}: {{ .Annotations.summary }} {{ .Annotations.runbook_url }}\n{{ end }}"
      }]
    }]
  })
}

resource "aws_prometheus_workspace" "cell" {
  alias = local.prefix
}

resource "aws_prometheus_rule_group_namespace" "rules" {
  for_each     = local.rule_files
  name         = replace(trimsuffix(each.key, ".yaml"), "/", "-")
  workspace_id = aws_prometheus_workspace.cell.id
  data         = file("${local.obs}/${each.key}")
}

resource "aws_prometheus_alert_manager_definition" "cell" {
  workspace_id = aws_prometheus_workspace.cell.id
  definition   = yamlencode({ alertmanager_config = yamlencode(local.alertmanager) })
}

resource "aws_sns_topic" "alert" {
  for_each          = toset(["page", "ticket"])
  name              = "${local.prefix}-${each.key}"
  kms_master_key_id = aws_kms_key.cell.arn
}

data "aws_iam_policy_document" "alert" {
  for_each = aws_sns_topic.alert
  statement {
    sid       = "Publish"
    actions   = ["sns:Publish", "sns:GetTopicAttributes"]
    resources = [each.value.arn]
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

resource "aws_sns_topic_policy" "alert" {
  for_each = aws_sns_topic.alert
  arn      = each.value.arn
  policy   = data.aws_iam_policy_document.alert[each.key].json
}

resource "aws_sns_topic_subscription" "page" {
  for_each  = toset(var.pager_emails)
  topic_arn = aws_sns_topic.alert["page"].arn
  protocol  = "email"
  endpoint  = each.key
}

# Prometheus' rules see what PulseGrid's own programs measure. These see what they cannot: AWS's parts, and Prometheus gone.
locals {
  alarms = merge(
    {
      no-gateways = {
        about = "Less than two gateways are healthy", runbook = "ingestion", page = true
        ns    = "AWS/NetworkELB", metric = "HealthyHostCount", stat = "Minimum", when = "LessThanThreshold", value = 2
        dims  = { LoadBalancer = aws_lb.edge.arn_suffix, TargetGroup = aws_lb_target_group.gateway["grpc"].arn_suffix }
      }
      kafka-offline = {
        about = "Kafka has partitions without a leader", runbook = "kafka", page = true
        ns    = "AWS/Kafka", metric = "OfflinePartitionsCount", stat = "Maximum", when = "GreaterThanThreshold", value = 0
        dims  = { "Cluster Name" = local.prefix }
      }
      kafka-cpu = {
        about = "Brokers are busy: move to larger ones, or more", runbook = "kafka", page = false
        ns    = "AWS/Kafka", metric = "CpuUser", stat = "Average", when = "GreaterThanThreshold", value = 60
        dims  = { "Cluster Name" = local.prefix }
      }
      no-metrics = {
        about = "Managed Prometheus takes no samples: its alerts are blind", runbook = "probe", page = true
        ns    = "AWS/Usage", metric = "ResourceCount", stat = "Maximum", when = "LessThanThreshold", value = 1
        dims  = { Type = "Resource", Service = "Prometheus", Class = "None", Resource = "IngestionRate", ResourceId = aws_prometheus_workspace.cell.id }
      }
    },
    local.express ? {} : {
      kafka-disk = {
        about = "Disks of brokers are filling", runbook = "kafka", page = true
        ns    = "AWS/Kafka", metric = "KafkaDataLogsDiskUsed", stat = "Maximum", when = "GreaterThanThreshold", value = 75
        dims  = { "Cluster Name" = local.prefix }
      }
    },
    { for copy, instance in aws_instance.clickhouse : "clickhouse-${copy}" => {
      about = "The host of copy ${copy} of the hot store does not pass its checks", runbook = "freshness", page = false
      ns    = "AWS/EC2", metric = "StatusCheckFailed", stat = "Maximum", when = "GreaterThanThreshold", value = 0
      dims  = { InstanceId = instance.id }
    } },
  )
}

resource "aws_cloudwatch_metric_alarm" "cell" {
  for_each            = local.alarms
  alarm_name          = "${local.prefix}-${each.key}"
  alarm_description   = "${each.value.about}. docs/runbooks/${each.value.runbook}.md"
  namespace           = each.value.ns
  metric_name         = each.value.metric
  dimensions          = each.value.dims
  statistic           = each.value.stat
  comparison_operator = each.value.when
  threshold           = each.value.value
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  treat_missing_data  = "breaching" # what says nothing is not known to be well
  alarm_actions       = [aws_sns_topic.alert[each.value.page ? "page" : "ticket"].arn]
  ok_actions          = [aws_sns_topic.alert[each.value.page ? "page" : "ticket"].arn]
}
