output "edge" {
  description = "What module global needs of a cell to lead senders to it."
  value = {
    dns_name     = aws_lb.edge.dns_name
    zone_id      = aws_lb.edge.zone_id
    health_check = aws_route53_health_check.cell.id
    region       = local.region
    jurisdiction = var.jurisdiction
  }
}

output "replica" {
  description = "Where another cell of the jurisdiction may copy to: its variable `replica`."
  value = {
    bucket_arn   = aws_s3_bucket.store["replica"].arn
    kms_key_arn  = aws_kms_key.cell.arn
    jurisdiction = var.jurisdiction
  }
}

output "task" {
  description = "What `deploy/task` needs to run a command of `pulsegrid` inside the cell."
  value = {
    region         = local.region
    cluster        = aws_ecs_cluster.cell.name
    definitions    = { for copy in local.copies : copy => aws_ecs_task_definition.part["operator${local.suffix[copy]}"].family }
    subnets        = [for s in aws_subnet.edge : s.id]
    security_group = aws_security_group.task["operator"].id
    log_group      = aws_cloudwatch_log_group.part["operator"].name
  }
}

output "registry" {
  description = "Bucket of tenants/ and schemas/, which are files under version control."
  value       = aws_s3_bucket.store["registry"].bucket
}

output "repositories" {
  description = "Repositories of the cell's images."
  value       = { for name, r in aws_ecr_repository.image : name => r.repository_url }
}

output "clickhouse_hosts" {
  description = "Instances of the hot store, by copy."
  value       = { for name, i in aws_instance.clickhouse : name => i.id }
}

output "topics" {
  description = "SNS topics: page wakes somebody, ticket does not."
  value       = { for name, t in aws_sns_topic.alert : name => t.arn }
}

output "endpoint" {
  description = "Where agents of this cell send, whatever DNS thinks of its health."
  value       = { grpc = "https://${local.hostname}:4317", http = "https://${local.hostname}:4318" }
}
