# The log. Topics are the gateways' (topics::manage: create), with the partitions of var.kafka.

locals {
  express = startswith(var.kafka.instance_type, "express.")
  brokers = 3 * var.kafka.brokers_per_zone
  # MSK names at most three brokers; their names differ by number only, and metrics are asked of each.
  broker_names = [for i in range(1, local.brokers + 1) : replace(split(",", aws_msk_cluster.cell.bootstrap_brokers_sasl_iam)[0], "/^b-[0-9]+\\.([^:]+):.*$/", "b-${i}.$1")]
}

resource "aws_msk_configuration" "cell" {
  name           = local.prefix
  kafka_versions = [var.kafka.version]
  # Express fixes replication and refuses the settings that would change it.
  server_properties = join("\n", concat(["auto.create.topics.enable=false"], local.express ? [] : [
    "default.replication.factor=3",
    "min.insync.replicas=2",
    "unclean.leader.election.enable=false",
    "log.message.timestamp.type=LogAppendTime",
    "offsets.retention.minutes=20160",
  ]))
}

resource "aws_msk_cluster" "cell" {
  cluster_name           = local.prefix
  kafka_version          = var.kafka.version
  number_of_broker_nodes = local.brokers
  enhanced_monitoring    = "PER_TOPIC_PER_BROKER"

  broker_node_group_info {
    instance_type   = var.kafka.instance_type
    client_subnets  = [for s in aws_subnet.inner : s.id]
    security_groups = [aws_security_group.kafka.id]
    dynamic "storage_info" {
      for_each = local.express ? [] : [1]
      content {
        ebs_storage_info {
          volume_size = var.kafka.disk_gib
        }
      }
    }
  }
  configuration_info {
    arn      = aws_msk_configuration.cell.arn
    revision = aws_msk_configuration.cell.latest_revision
  }
  client_authentication {
    unauthenticated = false
    sasl {
      iam = true
    }
  }
  encryption_info {
    encryption_at_rest_kms_key_arn = aws_kms_key.cell.arn
    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }
  open_monitoring {
    prometheus {
      jmx_exporter {
        enabled_in_broker = true
      }
      node_exporter {
        enabled_in_broker = true
      }
    }
  }
  logging_info {
    broker_logs {
      cloudwatch_logs {
        enabled   = true
        log_group = aws_cloudwatch_log_group.part["kafka"].name
      }
    }
  }
}
