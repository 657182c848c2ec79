# The hot store: independent copies, each on a host of its own in a zone of its own, with metadata, small parts and a cache on a disk that outlives the host, and what
# merges have made large in its own prefix of the bucket hot. Each is filled by a consumer group of its own, so neither needs the other (decision 0067).
#
# A host reads its configuration from the registry bucket whenever ClickHouse starts there, so a change is applied copy by copy, by restarting it (docs/deploy.md).

locals {
  hosts = var.clickhouse.cloud == null ? { for i, copy in local.copies : copy => var.zones[i] } : {}
  clickhouse_host = { for copy in local.copies : copy => (
    var.clickhouse.cloud == null ? "clickhouse-${copy}.${aws_route53_zone.inner.name}" : var.clickhouse.cloud[copy].host
  ) }
}

resource "aws_s3_object" "clickhouse" {
  for_each   = fileset("${path.module}/../../clickhouse", "*.xml")
  bucket     = aws_s3_bucket.store["registry"].id
  key        = "clickhouse/${each.key}"
  source     = "${path.module}/../../clickhouse/${each.key}"
  kms_key_id = aws_kms_key.cell.arn
  # Of a file that somebody changed by hand; an etag is no MD5 where KMS encrypts.
  source_hash = filemd5("${path.module}/../../clickhouse/${each.key}")
  depends_on  = [aws_s3_bucket_versioning.store, aws_s3_bucket_server_side_encryption_configuration.store]
}

data "aws_ssm_parameter" "host_image" {
  name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
}

resource "aws_instance" "clickhouse" {
  for_each                = local.hosts
  ami                     = data.aws_ssm_parameter.host_image.insecure_value
  instance_type           = var.clickhouse.instance_type
  subnet_id               = aws_subnet.inner[each.value].id
  vpc_security_group_ids  = [aws_security_group.clickhouse.id]
  iam_instance_profile    = aws_iam_instance_profile.clickhouse[each.key].name
  ebs_optimized           = true
  monitoring              = true
  disable_api_termination = var.deletion_protection
  metadata_options {
    http_tokens                 = "required"
    http_endpoint               = "enabled"
    http_put_response_hop_limit = 2 # the container is one hop further
  }
  root_block_device {
    volume_type = "gp3"
    volume_size = 30
    encrypted   = true
    kms_key_id  = aws_kms_key.cell.arn
  }
  user_data = templatefile("${path.module}/clickhouse-host.sh.tftpl", {
    copy      = each.key
    region    = local.region
    image     = var.images.clickhouse
    registry  = aws_s3_bucket.store["registry"].bucket
    hot       = "https://${aws_s3_bucket.store["hot"].bucket}.s3.${local.region}.amazonaws.com/${each.key}/"
    log_group = aws_cloudwatch_log_group.part["clickhouse"].name
    secret    = { for name in ["clickhouse", "internal-tls"] : name => aws_secretsmanager_secret.cell[name].name }
  })
  tags = { Name = "${local.prefix}-clickhouse-${each.key}" }
  lifecycle {
    # A newer image of the host, or of ClickHouse, would replace both copies at once. An upgrade replaces them by name, one after the other.
    ignore_changes = [ami, user_data]
  }
}

resource "aws_ebs_volume" "clickhouse" {
  for_each          = local.hosts
  availability_zone = each.value
  type              = "gp3"
  size              = var.clickhouse.disk_gib
  iops              = 6000
  throughput        = 500
  encrypted         = true
  kms_key_id        = aws_kms_key.cell.arn
  tags              = { Name = "${local.prefix}-clickhouse-${each.key}" }
}

resource "aws_volume_attachment" "clickhouse" {
  for_each    = local.hosts
  device_name = "/dev/sdf"
  volume_id   = aws_ebs_volume.clickhouse[each.key].id
  instance_id = aws_instance.clickhouse[each.key].id
}

# Names inside the cell, which the certificate inside the cell has.
resource "aws_route53_zone" "inner" {
  name          = "${var.cell}.pulsegrid.internal"
  force_destroy = true
  vpc {
    vpc_id = aws_vpc.cell.id
  }
}

resource "aws_route53_record" "clickhouse" {
  for_each = local.hosts
  zone_id  = aws_route53_zone.inner.zone_id
  name     = "clickhouse-${each.key}"
  type     = "A"
  ttl      = 30
  records  = [aws_instance.clickhouse[each.key].private_ip]
}

# ClickHouse Cloud instead of hosts.
resource "aws_vpc_endpoint" "clickhouse_cloud" {
  for_each            = var.clickhouse.cloud == null ? {} : var.clickhouse.cloud
  vpc_id              = aws_vpc.cell.id
  service_name        = each.value.service
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for s in aws_subnet.inner : s.id]
  security_group_ids  = [aws_security_group.clickhouse.id]
  tags                = { Name = "${local.prefix}-clickhouse-${each.key}" }
}
